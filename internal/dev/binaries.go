package dev

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const (
	downloadVersion = embeddedpostgres.V18
	mavenCentral    = "https://repo1.maven.org/maven2"
)

// installFolders is where packages put the binaries of PostgreSQL: Debian's, then Homebrew's on either processor.
func installFolders() []string {
	return []string{
		"/usr/lib/postgresql/*/bin",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
	}
}

// findBinaries returns the folder that holds postgres and initdb: PG_BINDIR, else the first in PATH, else the newest version
// that is installed in one of the folders; "" if there is none.
func findBinaries(env map[string]string, installed []string) (string, error) {
	if dir := env["PG_BINDIR"]; dir != "" {
		if bin, ok := binariesIn(dir); ok {
			return bin, nil
		}
		return "", fmt.Errorf("PG_BINDIR=%s does not hold both postgres and initdb: set it to the folder that does", dir)
	}
	for _, dir := range filepath.SplitList(env["PATH"]) {
		if bin, ok := binariesIn(dir); ok {
			return bin, nil
		}
	}
	for _, pattern := range installed {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("look for PostgreSQL in %s: %w", pattern, err)
		}
		slices.SortFunc(dirs, func(a, b string) int { return cmp.Compare(versionIn(b), versionIn(a)) })
		for _, dir := range dirs {
			if bin, ok := binariesIn(dir); ok {
				return bin, nil
			}
		}
	}
	return "", nil
}

// binariesIn returns where the postgres of a folder really is, and reports whether initdb is beside it. A postgres in PATH
// is often a symbolic link, and its neighbours need not be linked.
func binariesIn(dir string) (bin string, ok bool) {
	postgres, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return "", false
	}
	bin, err = filepath.Abs(filepath.Dir(postgres))
	if err != nil {
		return "", false
	}
	for _, name := range []string{"postgres", "initdb"} {
		info, err := os.Stat(filepath.Join(bin, name))
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return "", false
		}
	}
	return bin, true
}

// versionIn returns the first number in the name of the folder above bin, such as 16 in postgresql@16/bin.
func versionIn(bin string) float64 {
	digits := regexp.MustCompile(`\d+(\.\d+)?`).FindString(filepath.Base(filepath.Dir(bin)))
	version, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return 0
	}
	return version
}

// download returns the folder of a PostgreSQL below dir/bin, and fetches it from a Maven repository if it does not exist
// yet.
func download(ctx context.Context, dir, repository string, out io.Writer) (string, error) {
	home := filepath.Join(dir, "bin", "postgresql-"+string(downloadVersion))
	if bin, ok := binariesIn(filepath.Join(home, "bin")); ok {
		return bin, nil
	}
	fmt.Fprintf(out, "PostgreSQL is not installed: downloading version %s once\n", downloadVersion)
	// What a download that was cut short left is removed here and not by itself, because the library may still write there.
	fresh := filepath.Join(filepath.Dir(home), "download")
	if err := os.RemoveAll(fresh); err != nil {
		return "", err
	}
	if err := fetch(ctx, fresh, repository); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(fresh, "postgresql"), home); err != nil {
		return "", err
	}
	if err := os.RemoveAll(fresh); err != nil {
		return "", err
	}
	bin, ok := binariesIn(filepath.Join(home, "bin"))
	if !ok {
		return "", errors.New("the download held no postgres and initdb")
	}
	return bin, nil
}

// fetch lets the library download and unpack into dir/postgresql, and nothing more: it would refuse to run as root, and it
// deletes data of another version. Its data folder is one that nobody can create, so Start returns an error right after it
// has unpacked; whether it got that far is seen from the binaries.
func fetch(ctx context.Context, dir, repository string) error {
	unpacked := filepath.Join(dir, "postgresql")
	library := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(downloadVersion).
		BinaryRepositoryURL(repository).
		CachePath(filepath.Join(dir, "cache")).
		RuntimePath(filepath.Join(dir, "runtime")).
		BinariesPath(unpacked).
		DataPath(filepath.Join(os.DevNull, "data")).
		Port(0).
		Logger(io.Discard))
	done := make(chan error, 1) // the library knows no context: when ctx ends, it is left behind
	go func() { done <- library.Start() }()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-done:
		if _, ok := binariesIn(filepath.Join(unpacked, "bin")); !ok {
			return err
		}
		return nil
	}
}
