package rpc_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attack is a hostile client, and how many of them attack. It runs until the server has cut it off.
type attack struct {
	clients int
	run     func(address string) error
}

// patient are the attacks that hold resources, or send data that costs them little.
var patient = map[string]attack{
	"slow headers":            {20, slowly("POST "+procedure+" HTTP/1.1\r\nHost: x\r\nX-Slow: ", "a", "")},
	"slow start of HTTP/2":    {20, slowly(http2.ClientPreface[:3], "", "")},
	"slow body":               {20, slowly(head(procedure)+"Content-Length: 1000\r\n\r\n", " ", "504")},
	"slow body, REST":         {20, slowly(head(route)+"Content-Length: 1000\r\n\r\n", " ", "504")},
	"slow chunks":             {20, slowly(head(route)+"Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n", "504")},
	"idle":                    {150, slowly("GET /nope HTTP/1.1\r\nHost: x\r\n\r\n", "", "404")},
	"reader that never reads": {3, unread(head(procedure) + bigBody)},
	"never reads, REST":       {3, unread(head(route) + bigBody)},
	"header bomb":             {5, slowly("GET / HTTP/1.1\r\nHost: x\r\nX-Big: "+strings.Repeat("a", 1<<20), "", "")},

	"slow headers, HTTP/2":    {20, frames(slowContinuation)},
	"slow body, HTTP/2":       {20, frames(slowData(procedure))},
	"slow body, HTTP/2, REST": {20, frames(slowData(route))},
	"idle, HTTP/2":            {150, frames(func(*peer) error { return nil })},
	"never reads, HTTP/2":     {3, deafFrames(openWindow, slowPing)},
	"window that never opens": {3, frames(closedWindow, noWindow)},
	"window of single bytes":  {3, frames(narrowWindow, noWindow)},
	"window for no answer":    {3, frames(closedWindowForAnswer, noWindow)},
	"replies that pile up":    {3, unread(strings.Repeat("GET /nope HTTP/1.1\r\nHost: x\r\n\r\n", 50_000))},
	"window overflow":         {5, frames(windowOverflow)},
	"window of no bytes":      {5, frames(emptyUpdates)},
	"header bomb, HTTP/2":     {5, frames(headerBomb)},
}

// swift are the attacks that send as fast as they can.
var swift = map[string]attack{
	"CONTINUATION flood":          {5, frames(continuations(strings.Repeat("a", 16<<10)))},
	"empty CONTINUATION flood":    {5, frames(continuations(""))},
	"ping flood":                  {2, deafFrames(hello, ping)},
	"settings flood":              {2, deafFrames(hello, hello)},
	"rapid reset":                 {1, frames(rapidReset(procedure))},
	"rapid reset of what goes on": {1, frames(rapidReset("/deaf"))},
}

const (
	drip    = 100 * time.Millisecond // between the bytes of slow attacks
	bigBody = "Content-Length: 33\r\n\r\n" + big
	big     = `{"queue":"big","message":"hello"}`
)

// noWindow prevents the server from sending on a stream.
var noWindow = http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}

func head(path string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
}

func dial(address string) (net.Conn, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(patience))
}

// slowly sends first and then repeats drop, one at a time, until the server closes the connection. The last reply before
// that must have the status, unless it is empty.
func slowly(first, drop, status string) func(string) error {
	return func(address string) error {
		conn, err := dial(address)
		if err != nil {
			return err
		}
		defer conn.Close()
		go func() {
			_, err := io.WriteString(conn, first)
			for err == nil && drop != "" {
				<-time.After(drip)
				_, err = io.WriteString(conn, drop)
			}
		}()
		reply, err := io.ReadAll(conn)
		if timedOut(err) {
			return errors.New("the connection is held")
		}
		if status != "" && !bytes.HasPrefix(reply, []byte("HTTP/1.1 "+status)) {
			return fmt.Errorf("the reply is %.40q, want status %s", reply, status)
		}
		return nil
	}
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// unread sends a request and never reads the reply. Sending more shows that the server has closed the connection.
func unread(request string) func(string) error {
	return func(address string) error {
		conn, err := dial(address)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.(*net.TCPConn).SetReadBuffer(64 << 10) // Otherwise it grows until it holds thousands of replies.
		_, err = io.WriteString(conn, request)
		for err == nil {
			<-time.After(drip)
			_, err = io.WriteString(conn, "\n")
		}
		if timedOut(err) {
			return errors.New("the connection is held")
		}
		return nil
	}
}

// peer sends HTTP/2 frames directly, until its connection fails.
type peer struct {
	*http2.Framer
	conn   net.Conn
	header bytes.Buffer
	pack   *hpack.Encoder
}

func newPeer(address string) (*peer, error) {
	conn, err := dial(address)
	if err != nil {
		return nil, err
	}
	p := &peer{Framer: http2.NewFramer(conn, bufio.NewReader(conn)), conn: conn}
	p.AllowIllegalWrites = true
	p.pack = hpack.NewEncoder(&p.header)
	_, err = io.WriteString(conn, http2.ClientPreface)
	return p, err
}

// block encodes the header of a call.
func (p *peer) block(path string) []byte {
	p.header.Reset()
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", path}, {"content-type", "application/json"},
	} {
		_ = p.pack.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return bytes.Clone(p.header.Bytes())
}

// call sends a whole request.
func (p *peer) call(stream uint32, path, body string) error {
	err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.block(path), EndHeaders: true})
	if err != nil {
		return err
	}
	return p.WriteData(stream, true, []byte(body))
}

// frames runs attack on the server until it fails or has nothing more to send, reads all replies, and waits for the server
// to close the connection.
func frames(attack func(*peer) error, settings ...http2.Setting) func(string) error {
	return func(address string) error {
		p, err := newPeer(address)
		if err != nil {
			return err
		}
		defer p.conn.Close()
		go func() {
			if p.WriteSettings(settings...) == nil {
				_ = attack(p)
			}
		}()
		for {
			if _, err := p.ReadFrame(); timedOut(err) {
				return errors.New("the connection is held")
			} else if err != nil {
				return nil
			}
		}
	}
}

// deafFrames calls begin, then calls flood repeatedly, and never reads.
func deafFrames(begin, flood func(*peer) error) func(string) error {
	return func(address string) error {
		p, err := newPeer(address)
		if err != nil {
			return err
		}
		defer p.conn.Close()
		for err = begin(p); err == nil; {
			err = flood(p)
		}
		if timedOut(err) {
			return errors.New("the connection is held")
		}
		return nil
	}
}

func slowData(path string) func(*peer) error {
	return func(p *peer) error {
		err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(path), EndHeaders: true})
		for err == nil {
			<-time.After(drip)
			err = p.WriteData(1, false, []byte(" "))
		}
		return err
	}
}

// slowContinuation announces a header of 60,000 bytes and sends it byte by byte.
func slowContinuation(p *peer) error {
	field := append(p.block(procedure), 0x00, 0x01, 'x', 0x7f, 0xe1, 0xd3, 0x03)
	err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: field})
	for err == nil {
		<-time.After(drip)
		err = p.WriteContinuation(1, false, []byte("a"))
	}
	return err
}

// continuations sends a header that never ends.
func continuations(value string) func(*peer) error {
	return func(p *peer) error {
		err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(procedure)})
		for err == nil {
			p.header.Reset()
			if value != "" {
				_ = p.pack.WriteField(hpack.HeaderField{Name: "x", Value: value, Sensitive: true})
			}
			err = p.WriteContinuation(1, false, p.header.Bytes())
		}
		return err
	}
}

// headerBomb sends a field of 4 kB once and refers to it 16,000 times, with one byte each.
func headerBomb(p *peer) error {
	block := p.block(procedure)
	p.header.Reset()
	_ = p.pack.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("a", 4000)})
	err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: append(block, p.header.Bytes()...)})
	if err == nil {
		err = p.WriteContinuation(1, true, bytes.Repeat([]byte{0x80 | 62}, 16000))
	}
	return err
}

// rapidReset begins 20,000 calls and cancels each at once. Then it sends GOAWAY, so that it need not wait until the server
// finds it idle.
func rapidReset(path string) func(*peer) error {
	return func(p *peer) error {
		for i := range uint32(20_000) {
			if err := p.call(2*i+1, path, good); err != nil {
				return err
			}
			if err := p.WriteRSTStream(2*i+1, http2.ErrCodeCancel); err != nil {
				return err
			}
		}
		return p.WriteGoAway(0, http2.ErrCodeNo, nil)
	}
}

// narrowWindow lets the server send one byte at a time.
func narrowWindow(p *peer) error {
	err := p.call(1, procedure, big)
	for err == nil {
		<-time.After(drip)
		err = p.WriteWindowUpdate(1, 1)
	}
	return err
}

func closedWindow(p *peer) error { return p.call(1, procedure, big) }

// closedWindowForAnswer accepts no reply, although the handler returns one at once.
func closedWindowForAnswer(p *peer) error { return p.call(1, procedure, good) }

// openWindow requests a big reply, and accepts all of it.
func openWindow(p *peer) error {
	const most = 1<<31 - 1
	err := p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: most})
	if err == nil {
		err = p.WriteWindowUpdate(0, most-1<<16)
	}
	if err == nil {
		err = p.call(1, procedure, big)
	}
	return err
}

func windowOverflow(p *peer) error {
	const most = 1<<31 - 1
	err := p.WriteWindowUpdate(0, most)
	if err == nil {
		err = p.WriteWindowUpdate(0, most)
	}
	return err
}

func emptyUpdates(p *peer) error {
	for {
		if err := p.WriteWindowUpdate(0, 0); err != nil {
			return err
		}
	}
}

func hello(p *peer) error { return p.WriteSettings() }

func ping(p *peer) error { return p.WritePing(false, [8]byte{}) }

func slowPing(p *peer) error {
	<-time.After(drip)
	return ping(p)
}
