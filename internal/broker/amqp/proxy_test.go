package amqp

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// proxy is a connection to RabbitMQ that a test can break.
type proxy struct {
	*toxiproxy.Proxy
	t *testing.T
}

// newProxy returns a running proxy and the URL that leads through it.
func newProxy(t *testing.T, target string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	zerolog.SetGlobalLevel(zerolog.Disabled) // Some toxics log by themselves.
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &proxy{toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", u.Host), t}
	p.start()
	t.Cleanup(func() {
		p.Toxics.ResetToxics(context.Background()) // Toxics would leak goroutines.
		p.Stop()
	})
	u.Host = p.Listen
	return p, u.String()
}

func (p *proxy) start() {
	p.t.Helper()
	if err := p.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// cut closes every connection and accepts new ones.
func (p *proxy) cut() {
	p.Stop()
	p.start()
}

// poison adds a toxic in both directions, to open connections and to later ones, until cure removes it.
func (p *proxy) poison(toxic string, attributes map[string]any) (cure func()) {
	p.t.Helper()
	ways := []string{"upstream", "downstream"}
	for _, way := range ways {
		p.add(map[string]any{"name": toxic + way, "type": toxic, "stream": way, "attributes": attributes})
	}
	return func() {
		p.t.Helper()
		for _, way := range ways {
			p.remove(toxic + way)
		}
	}
}

func (p *proxy) add(toxic map[string]any) {
	p.t.Helper()
	text, err := json.Marshal(toxic)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.Toxics.AddToxicJson(strings.NewReader(string(text))); err != nil {
		p.t.Fatal(err)
	}
}

func (p *proxy) remove(name string) {
	p.t.Helper()
	if err := p.Toxics.RemoveToxic(context.Background(), name); err != nil {
		p.t.Error(err)
	}
}

// hold lets nothing through: what is on its way waits, and writers get stuck. The cure sends what was held.
func (p *proxy) hold() (cure func()) { return p.poison("bandwidth", map[string]any{"rate": 0}) }

// silence discards all data and leaves connections open, as if the other end had vanished. The cure closes them.
func (p *proxy) silence() (cure func()) { return p.poison("timeout", map[string]any{"timeout": 0}) }

// inject sends the client a method as if from the server, on a channel of each connection; nothing else may be on its way.
func (p *proxy) inject(channel, class, method uint16, arguments ...byte) {
	p.t.Helper()
	frame := []byte{1}
	frame = binary.BigEndian.AppendUint16(frame, channel)
	frame = binary.BigEndian.AppendUint32(frame, uint32(4+len(arguments)))
	frame = binary.BigEndian.AppendUint16(frame, class)
	frame = binary.BigEndian.AppendUint16(frame, method)
	frame = append(append(frame, arguments...), 0xCE)
	toxics.Register("inject", new(injectToxic))
	p.add(map[string]any{"name": "inject", "type": "inject", "attributes": map[string]any{"frame": frame}})
	p.remove("inject")
}

// injectToxic sends a frame ahead of what passes.
type injectToxic struct {
	Frame []byte `json:"frame"`
}

// Pipe implements toxics.Toxic.
func (i *injectToxic) Pipe(stub *toxics.ToxicStub) {
	stub.Output <- &stream.StreamChunk{Data: i.Frame, Timestamp: time.Now()}
	new(toxics.NoopToxic).Pipe(stub)
}

// withholdConfirms holds back the confirms that RabbitMQ sends on a channel; nothing may be on its way yet. The cure sends
// them.
func (p *proxy) withholdConfirms(channel uint16) (cure func()) {
	p.t.Helper()
	toxics.Register("withhold", new(withholdToxic))
	p.add(map[string]any{"name": "withhold", "type": "withhold", "attributes": map[string]any{"channel": channel}})
	return func() {
		p.t.Helper()
		p.remove("withhold")
	}
}

// withholdToxic holds back the basic.ack frames of a channel until it is removed.
type withholdToxic struct {
	Channel uint16 `json:"channel"`
}

// Pipe implements toxics.Toxic.
func (w *withholdToxic) Pipe(stub *toxics.ToxicStub) {
	var unread, withheld []byte
	for {
		select {
		case <-stub.Interrupt:
			if rest := slices.Concat(withheld, unread); len(rest) > 0 {
				stub.Output <- &stream.StreamChunk{Data: rest, Timestamp: time.Now()}
			}
			return
		case chunk := <-stub.Input:
			if chunk == nil {
				stub.Close()
				return
			}
			var passed []byte
			unread = append(unread, chunk.Data...)
			for frame := w.next(unread); frame != nil; frame = w.next(unread) {
				unread = unread[len(frame):]
				if w.isConfirm(frame) {
					withheld = append(withheld, frame...)
				} else {
					passed = append(passed, frame...)
				}
			}
			if len(passed) > 0 { // A chunk of nothing would end the connection.
				stub.Output <- &stream.StreamChunk{Data: passed, Timestamp: chunk.Timestamp}
			}
		}
	}
}

// next returns the first frame, or nil if it is incomplete: type, channel, size, payload and an end of one byte.
func (w *withholdToxic) next(unread []byte) []byte {
	const head, end = 7, 1
	if len(unread) < head {
		return nil
	}
	size := head + int(binary.BigEndian.Uint32(unread[3:])) + end
	if len(unread) < size {
		return nil
	}
	return unread[:size]
}

func (w *withholdToxic) isConfirm(frame []byte) bool {
	const method, basicAck = 1, 60<<16 | 80
	return frame[0] == method && binary.BigEndian.Uint16(frame[1:]) == w.Channel &&
		binary.BigEndian.Uint32(frame[7:]) == basicAck
}

// claimVersion has the server say that it is of another version, on later connections.
func (p *proxy) claimVersion(version string) {
	p.t.Helper()
	toxics.Register("version", new(versionToxic))
	p.add(map[string]any{"name": "version", "type": "version", "attributes": map[string]any{"version": version}})
}

// versionToxic replaces the version among the properties that a server begins with.
type versionToxic struct {
	Version string `json:"version"`
}

// Pipe implements toxics.Toxic.
func (v *versionToxic) Pipe(stub *toxics.ToxicStub) {
	chunk := <-stub.Input
	if chunk == nil {
		stub.Close()
		return
	}
	const key = "\x07versionS" // a string of the table, which its length follows
	if at := bytes.Index(chunk.Data, []byte(key)); at >= 0 {
		rest := chunk.Data[at+len(key):]
		n := binary.BigEndian.Uint32(rest)
		copy(rest[4:4+n], v.Version+strings.Repeat(" ", int(n)))
	}
	stub.Output <- chunk
	new(toxics.NoopToxic).Pipe(stub)
}
