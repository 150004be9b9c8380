package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"

	channelv1 "plinth/api/plinth/channel/v1"
)

// An EventSource in a browser, which has a URL and no key, goes on by itself after its connection was cut: it has all messages, in order,
// once.
func TestEventSource(t *testing.T) {
	t.Parallel()
	chromium := tool(t, "chromium", "chromium-browser", "google-chrome")
	server := start(t, "server", with(backends(t, "postgres"), map[string]string{"CORS_ALLOWED_ORIGINS": "*"}))
	t.Cleanup(func() { server.stop(t) })
	url := "http://" + server.address(t)
	ready(t, url)
	cut, through := newProxy(t, url)
	cut.open()
	c := channelv1.NewChannelServiceClient(http2(t), url, connect.WithGRPC(), key(newTenant(t, url, "acme")))
	stream, err := c.CreateSubscribeUrl(t.Context(), &channelv1.CreateSubscribeUrlRequest{Channels: []string{"c"}})
	if err != nil {
		t.Fatal(err)
	}
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<!doctype html><link rel="icon" href="data:,"><title>events</title>`)
	}))
	t.Cleanup(page.Close)
	driver := node(t, "eventsource.mjs", "playwright-core", chromium, page.URL, through+stream.GetUrl())
	var stderr bytes.Buffer
	driver.Stderr = &stderr
	driver.Env = append(driver.Env, "HOME="+t.TempDir()) // The browser writes there.
	stdout, err := driver.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := driver.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = driver.Process.Kill(); _ = driver.Wait() }()
	watchdog := time.AfterFunc(2*patience, func() { _ = driver.Process.Kill() })
	defer watchdog.Stop()
	publish := func(text string) {
		t.Helper()
		if _, err := c.Publish(t.Context(), &channelv1.PublishRequest{Channel: "c", Payload: &channelv1.PublishRequest_Text{Text: text}}); err != nil {
			t.Fatal(err)
		}
	}
	const cuts = 3
	got, published, opened := 0, 0, 0
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var event struct {
			Subscribed *struct{}
			Message    *struct{ Text string }
			Gap        *struct{}
			State      *int
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		switch {
		case event.Subscribed != nil:
			if opened++; opened > cuts {
				publish("the end")
				continue
			}
			publish(fmt.Sprint(published))
			published++
		case event.Message != nil && event.Message.Text == "the end":
			if got != published || opened != cuts+1 {
				t.Errorf("%d of %d messages came, in %d streams", got, published, opened)
			}
			return
		case event.Message != nil:
			if event.Message.Text != fmt.Sprint(got) {
				t.Fatalf("got %s, want %d", event.Message.Text, got)
			}
			if got++; got == published && opened <= cuts { // It has all: cut it, and publish what it does not get at once.
				cut.partition()
				for range 50 {
					publish(fmt.Sprint(published))
					published++
				}
			}
		case event.Gap != nil || *event.State != 0:
			t.Fatalf("got %s, want it to connect again", lines.Text())
		}
	}
	_ = driver.Wait()
	t.Fatalf("the browser ended after %d of %d messages: %s", got, published, &stderr)
}
