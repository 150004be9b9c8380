package cron

import (
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // for machines without a zone database

	"plinth/internal/errs"
)

// Zones holds the time zones that have been loaded. The zero Zones is empty; it may be used concurrently.
type Zones struct {
	loaded   sync.Map // *time.Location by name; only names that exist are in it
	versions sync.Map // their ZoneVersion, likewise
}

// Load returns the time zone of a name of the IANA database, from that of the machine where it has one, else from the one that was
// current when Go was released. A zone that was loaded stays as it is until the process ends. The error is of kind InvalidArgument.
func (z *Zones) Load(name string) (*time.Location, error) {
	if loc, ok := z.loaded.Load(name); ok {
		return loc.(*time.Location), nil
	}
	loc, err := time.LoadLocation(name)
	if err != nil || !isZone(name) {
		return nil, errs.New(errs.InvalidArgument, "time_zone: %q is unknown; it takes a name of the IANA database, such as Europe/Berlin or UTC", errs.Shortened(name, 64))
	}
	z.loaded.Store(name, loc)
	return loc, nil
}

// Version returns the ZoneVersion of the time zone of a name. It is "" for the empty name, which is UTC, and for one that is unknown.
func (z *Zones) Version(name string) string {
	if name == "" {
		return ""
	}
	if version, ok := z.versions.Load(name); ok {
		return version.(string)
	}
	loc, err := z.Load(name)
	if err != nil {
		return ""
	}
	version := ZoneVersion(loc)
	z.versions.Store(name, version)
	return version
}

// isZone reports whether a name that can be loaded is one of the database, and means the same on all machines.
func isZone(name string) bool {
	switch name {
	case "", "Local", "localtime", "posixrules", "Factory":
		return false
	}
	return !strings.HasPrefix(name, "posix/") && !strings.HasPrefix(name, "right/")
}

// ZoneVersion returns a fingerprint of what the clocks of a zone do in the years 2020 to 2060. It changes when a new release of the
// zone database changes them, and is the same for the same rules from any source: next times that were computed by another
// version may be wrong.
func ZoneVersion(loc *time.Location) string {
	const first, last = 1577836800, 2840140800 // 1 January of 2020 and of 2060
	sum := fnv.New64a()
	var record [16]byte
	for t, offset := int64(first), int64(-1); t < last; {
		st := stretchAt(loc, t)
		if st.offset != offset {
			offset = st.offset
			binary.BigEndian.PutUint64(record[:8], uint64(t))
			binary.BigEndian.PutUint64(record[8:], uint64(offset))
			_, _ = sum.Write(record[:])
		}
		t = st.end
	}
	return hex.EncodeToString(sum.Sum(nil))
}
