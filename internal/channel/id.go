package channel

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"time"

	"github.com/google/uuid"

	"plinth/internal/errs"
)

// ID is a place in the messages of a tenant: that of a message, or one between two messages. Places grow with time.
type ID struct {
	at    int64  // microseconds since 1970; no two messages of a tenant have the same
	epoch uint32 // the time in which Redis lost nothing
	tag   uint32 // of a message, see tagOf; 0 is unknown
}

// A tag has the number of a message in its channel and epoch, modulo 2^20, below 10 bits by which ids of other channels are known.
const (
	tagBits     = 30
	tagMask     = 1<<tagBits - 1
	counterBits = 20
	counterMask = 1<<counterBits - 1
)

// tagOf returns the tag of the nth message of a channel.
func tagOf(name string, n int64) uint32 { return hashOf(name)<<counterBits | uint32(n)&counterMask }

func hashOf(name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // It never fails.
	return h.Sum32() & (tagMask >> counterBits)
}

// String returns the id as a UUIDv7 (RFC 9562, 5.7 and method 3 of 6.2): milliseconds, microseconds, epoch and tag.
func (id ID) String() string {
	var u uuid.UUID
	milli, micro := uint64(id.at/1000), uint64(id.at%1000)
	binary.BigEndian.PutUint64(u[:8], milli<<16|7<<12|micro)
	binary.BigEndian.PutUint64(u[8:], 2<<62|uint64(id.epoch)<<tagBits|uint64(id.tag&tagMask))
	return u.String()
}

// ParseID returns the ID that String made a text of. field is its path, for the error. Errors: InvalidArgument.
func ParseID(field, text string) (ID, error) {
	u, err := uuid.Parse(text)
	if err == nil {
		high, low := binary.BigEndian.Uint64(u[:8]), binary.BigEndian.Uint64(u[8:])
		id := ID{
			at:    int64(high>>16)*1000 + int64(high&0xfff), // 48 bits times 1000 fit.
			epoch: uint32(low >> tagBits), tag: uint32(low) & tagMask,
		}
		if id.String() == u.String() && id.at < maxPlace {
			return id, nil
		}
	}
	return ID{}, errs.New(errs.InvalidArgument, "%s: not an id of this service; ids are those of events, of Publish and of GetChannel", field)
}

// maxPlace is above all places: numbers in Redis are exact up to 2^53.
const maxPlace = 1 << 53

// IsZero reports whether there is no id.
func (id ID) IsZero() bool { return id == ID{} }

// Time returns when a message was published.
func (id ID) Time() time.Time { return time.UnixMicro(id.at) }

// Compare returns -1, 0 or 1 where id is before, at or after other.
func (id ID) Compare(other ID) int { return cmp.Compare(id.at, other.at) }

// numberAfter returns how many messages of a channel are between id and a later one; 0 where that is not known.
func (id ID) numberAfter(later ID) int64 {
	if id.epoch != later.epoch || id.tag == 0 || later.tag == 0 || id.tag>>counterBits != later.tag>>counterBits {
		return 0
	}
	return int64((later.tag - id.tag - 1) & counterMask)
}
