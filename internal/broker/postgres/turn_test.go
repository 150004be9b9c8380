package postgres

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"plinth/internal/broker/brokertest"
	"plinth/internal/pg/pgtest"
)

// One of two brokers is a millisecond further away from the database, so it hears of every message later. It still gets its
// share of messages that come one by one, from the first one on and for longer than a hint lasts.
func TestFarSubscriptionGetsItsPart(t *testing.T) {
	t.Parallel()
	const messages, pace = 600, 10 * time.Millisecond
	databaseURL := pgtest.New(t)
	near, _ := start(t, databaseURL, lease)
	far, _ := start(t, fromAfar(t, databaseURL), lease)
	queue := declare(t, near)
	farPart := brokertest.Take(t, far, queue, 100, 0)
	publish(t, near, queue, "first")
	brokertest.Eventually(t, "the far subscription has begun", func() bool { return farPart.Load() == 1 })
	nearPart := brokertest.Take(t, near, queue, 100, 0)
	turn := &near.subscriptions()[0].line.turn
	brokertest.Eventually(t, "the near subscription knows of the far one", func() bool {
		turn.mu.Lock()
		defer turn.mu.Unlock()
		return turn.isShared()
	})
	for range messages {
		publish(t, near, queue, "next")
		time.Sleep(pace)
	}
	brokertest.Eventually(t, "all are handled", func() bool { return farPart.Load()+nearPart.Load() >= 1+messages })
	if got := farPart.Load(); got < messages/3 {
		t.Errorf("the far subscription got %d of %d messages, want a third at least", got, messages)
	}
}

// fromAfar returns a URL through which the database is a millisecond away in each direction.
func fromAfar(t *testing.T, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", u.Host)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Toxics.ResetToxics(context.Background()) // Toxics would leak goroutines.
		p.Stop()
	})
	for _, way := range []string{"upstream", "downstream"} {
		toxic := strings.NewReader(`{"name": "` + way + `", "type": "latency", "stream": "` + way + `", "attributes": {"latency": 1}}`)
		if _, err := p.Toxics.AddToxicJson(toxic); err != nil {
			t.Fatal(err)
		}
	}
	u.Host = p.Listen
	return u.String()
}
