package lock_test

import (
	"bytes"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"plinth/internal/errs"
	"plinth/internal/pg/pgtest"
)

// A lock that was taken by a call whose reply was lost, for a lease that its caller did not name, is not held for its TTL.
func TestReplyIsLost(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	var lost atomic.Bool
	n, ctx := newNode(t, losing(t, databaseURL, "its reply is lost", &lost)), as(t, "acme")
	r := request(t, "one")
	r.Name, r.TTL, r.LeaseID = name(t, "its reply is lost"), time.Hour, uuid.Nil
	if l, err := n.Acquire(ctx, r); !lost.Load() || !errs.Is(err, errs.Unavailable) {
		t.Fatalf("%+v %v", l, err)
	}
	until(t, "the lock is free", func() bool {
		_, err := n.Get(ctx, r.Name)
		return errs.Is(err, errs.NotFound)
	})
}

// losing returns the URL of a proxy that cuts the first connection on which a text is sent, once the server has done what was asked.
func losing(t *testing.T, databaseURL, text string, lost *atomic.Bool) string {
	t.Helper()
	server, err := pgconn.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	network, address := pgconn.NetworkAddress(server.Host, server.Port)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			conn, err := net.Dial(network, address)
			if err != nil {
				_ = client.Close()
				return
			}
			go relay(client, conn, text, lost)
		}
	}()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Del("host")
	query.Del("port")
	query.Set("sslmode", "disable")
	u.Host, u.RawQuery = listener.Addr().String(), query.Encode()
	return u.String()
}

func relay(client, server net.Conn, text string, lost *atomic.Bool) {
	defer func() { _, _ = server.Close(), client.Close() }()
	var cuts atomic.Bool
	go func() {
		defer func() { _, _ = server.Close(), client.Close() }()
		for buffer := make([]byte, 64<<10); ; {
			n, err := client.Read(buffer)
			if err != nil {
				return
			}
			if strings.Contains(string(buffer[:n]), text) && lost.CompareAndSwap(false, true) {
				cuts.Store(true)
			}
			if _, err := server.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	ready := []byte("Z\x00\x00\x00\x05I") // It waits for the next question, in no transaction.
	for buffer := make([]byte, 64<<10); ; {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		if cuts.Load() {
			if bytes.HasSuffix(buffer[:n], ready) {
				return
			}
			continue
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}
