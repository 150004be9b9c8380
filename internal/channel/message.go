package channel

import (
	"encoding/binary"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"plinth/internal/errs"
)

// Message is a message of a channel. It is shared by all streams that it is sent to, and must not be changed.
type Message struct {
	ID         ID
	Channel    Name
	Previous   ID // of the message of the channel before; zero where that is not known
	Payload    []byte
	Text       bool // the payload was published as text
	Attributes map[string]string

	// Wire is for what the edge makes of the message, once for all streams.
	Wire atomic.Value

	before int64 // the place of the message of the tenant before
	size   int
}

// Publication is a message to publish.
type Publication struct {
	Channel    Name
	Payload    []byte // at most Limits.MaxPayloadSize
	Text       bool
	Attributes map[string]string
}

// MaxAttributes is the most bytes of all attributes of a message, keys included.
const MaxAttributes = 16 << 10

// encode returns what Redis keeps of a publication: 't' or 'd', the number of attributes, each key and value with its length
// before it, and the payload.
func (p Publication) encode() []byte {
	kind := byte('d')
	if p.Text {
		kind = 't'
	}
	data := binary.AppendUvarint([]byte{kind}, uint64(len(p.Attributes)))
	for _, key := range slices.Sorted(maps.Keys(p.Attributes)) {
		for _, text := range []string{key, p.Attributes[key]} {
			data = append(binary.AppendUvarint(data, uint64(len(text))), text...)
		}
	}
	return append(data, p.Payload...)
}

var errForeign = errs.New(errs.Internal, "what Redis has of a message has another form")

// decode fills in what encode wrote.
func (m *Message) decode(data string) error {
	m.size = len(data)
	if data == "" || data[0] != 't' && data[0] != 'd' {
		return errForeign
	}
	m.Text, data = data[0] == 't', data[1:]
	count, ok := cutNumber(&data)
	if !ok || count > uint64(len(data)) {
		return errForeign
	}
	if count > 0 {
		m.Attributes = make(map[string]string, count)
	}
	for range count {
		key, ok := cutText(&data)
		value, both := cutText(&data)
		if !ok || !both {
			return errForeign
		}
		m.Attributes[key] = value
	}
	m.Payload = []byte(data)
	return nil
}

func cutNumber(data *string) (uint64, bool) {
	var head [binary.MaxVarintLen64]byte
	n, width := binary.Uvarint(head[:copy(head[:], *data)])
	if width <= 0 {
		return 0, false
	}
	*data = (*data)[width:]
	return n, true
}

func cutText(data *string) (string, bool) {
	n, ok := cutNumber(data)
	if !ok || n > uint64(len(*data)) {
		return "", false
	}
	text := (*data)[:n]
	*data = (*data)[n:]
	return text, true
}

// parsePublished reads what publishScript publishes.
func parsePublished(payload string) (*Message, error) {
	parts := strings.SplitN(payload, " ", 7)
	if len(parts) != 7 {
		return nil, errForeign
	}
	var numbers [5]int64 // epoch, place, place of the tenant's message before, number, place of the channel's message before
	for i := range numbers {
		var err error
		if numbers[i], err = strconv.ParseInt(parts[i], 10, 64); err != nil || numbers[i] < 0 {
			return nil, errForeign
		}
	}
	m := &Message{Channel: Name{parts[5]}, before: numbers[2]}
	m.place(uint32(numbers[0]), numbers[1], numbers[3], numbers[4])
	return m, m.decode(parts[6])
}

// place sets where a message is.
func (m *Message) place(epoch uint32, at, n, previous int64) {
	m.ID = ID{at, epoch, tagOf(m.Channel.name, n)}
	if previous > 0 {
		m.Previous = ID{previous, epoch, tagOf(m.Channel.name, n-1)}
	}
}
