package observe

import (
	"runtime"
	"runtime/debug"
)

// Build says what a binary was built from. What is not known is "unknown".
type Build struct {
	Version  string `json:"version"`  // of the module
	Revision string `json:"revision"` // the commit, with "-dirty" if the tree had changes
	Time     string `json:"time"`     // of the commit, RFC 3339
	Go       string `json:"go"`       // version of the toolchain
}

// ReadBuild returns what the toolchain recorded in this binary.
func ReadBuild() Build {
	b := Build{Version: "unknown", Revision: "unknown", Time: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	dirty := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if dirty {
		b.Revision += "-dirty"
	}
	return b
}

// String returns the build on one line.
func (b Build) String() string {
	return b.Version + " (" + b.Revision + ", " + b.Time + ", " + b.Go + ")"
}
