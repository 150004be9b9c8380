package rpc

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"plinth/internal/errs"
)

// Limits of linger. A client that has sent nothing for lingerPause is taken to wait for the reply, and maxLingering is all the streams
// whose rest is read at a time: beyond, the reply is sent as if there were no rest.
const (
	lingerTime   = 500 * time.Millisecond
	lingerPause  = 250 * time.Millisecond
	maxLingering = 1000
)

// source is the body of a request as net/http has it.
type source struct {
	io.ReadCloser
	request *http.Request
	ended   bool // there is no more of it
}

func (s *source) Read(p []byte) (n int, err error) {
	n, err = s.ReadCloser.Read(p)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		s.ended = true
	default:
		err = s.fault(err)
	}
	return n, err
}

// Close closes the body on HTTP/1.1. On HTTP/2, linger reads what is left of it.
func (s *source) Close() error {
	if s.request.ProtoMajor == 1 {
		return s.ReadCloser.Close()
	}
	return nil
}

// fault tells a body that the client sent wrong from one that does not arrive. The errors of net/http for the former have no type, so
// they are what is left.
func (s *source) fault(err error) error {
	var broken net.Error
	switch {
	case s.request.Context().Err() != nil, errors.As(err, &broken), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, http.ErrBodyReadAfterClose):
		return err
	case s.request.ProtoMajor == 1:
		return errs.Wrap(err, errs.InvalidArgument, "the body is malformed: its chunks, or what comes after them, are not as HTTP/1.1 has them")
	}
	return errs.Wrap(err, errs.InvalidArgument, "the body is malformed: it has more or fewer bytes than Content-Length says")
}

// lingers reports whether the rest of the body is read once the call has been answered. It is not for streams, whose ends would come
// late, and not for gRPC, whose clients take the trailers for the end.
func (c *call) lingers() bool {
	return c.request.ProtoMajor != 1 && !(c.target.rpc && c.target.streams) && protocol(c) != "grpc"
}

// leaveRest has the connection not wait for the rest of the body, which nobody reads any more but linger.
func (c *call) leaveRest() {
	if !c.lingers() {
		c.stopReading()
	}
}

// linger sends the reply of a call whose body was not read to its end, and reads on for a while. If the handler returned at once,
// net/http would answer what still comes with a reset of the stream, and clients that send before they read, such as curl, would report
// that in place of the reply. It holds none of the call's places and none of its memory. HTTP/1.1 needs no such thing: net/http waits
// before it closes the connection.
func (s *Stack) linger(c *call) {
	if c.source.ended || c.request.ContentLength == 0 || !c.lingers() {
		return
	}
	defer s.lingering.Add(-1)
	if s.lingering.Add(1) > maxLingering {
		return
	}
	connection := c.connection()
	if connection.Flush() != nil {
		return
	}
	end, scrap := time.Now().Add(lingerTime), make([]byte, 16<<10)
	for left := MaxMessageBytes; left > 0; {
		pause := time.Now().Add(lingerPause)
		if pause.After(end) {
			pause = end
		}
		_ = connection.SetReadDeadline(pause)
		n, err := c.source.ReadCloser.Read(scrap)
		left -= n
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(pause):
			// It was cut off before, and cannot be read any more. Until the handler returns, net/http throws away what comes.
			select {
			case <-c.request.Context().Done():
			case <-time.After(lingerPause):
			}
			return
		default:
			return
		}
	}
}
