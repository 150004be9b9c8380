package main

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"plinth/bench/cost"
)

// The stock server writes a line for each call at once.
func TestStock(t *testing.T) {
	t.Parallel()
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	handler, err := stock("http://127.0.0.1:9/v1/traces", file)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	client, done := cost.Kinds()[2].Dial(server.Listener.Addr().String())
	defer done()
	const calls = 50
	if err := cost.Load(t.Context(), client, calls); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file.Name())
	if err != nil || bytes.Count(text, []byte("\n")) != calls {
		t.Fatalf("%v: the log has\n%s", err, text)
	}
	var line map[string]any
	if err := json.Unmarshal(text[:bytes.IndexByte(text, '\n')], &line); err != nil || line["code"] != "ok" || line["protocol"] != "connect" {
		t.Errorf("%v: %v", err, line)
	}
}

// The medians decide, of the traced server alone.
func TestReport(t *testing.T) {
	t.Parallel()
	of := func(traced float64) [][]float64 {
		return [][]float64{{1, 1, 9}, {9, 9, 9}, {9, 9, 9}, {traced, traced, 9}}
	}
	for _, test := range []struct {
		grpc, json float64
		broken     int
	}{{1.24, 1.39, 0}, {1.26, 1.39, 1}, {1.26, 1.41, 2}} {
		var out strings.Builder
		err := report(&out, map[string][][]float64{"grpc": of(test.grpc), "json": of(test.json)}, true)
		n := 0
		if err != nil {
			n = 1 + strings.Count(err.Error(), "\n")
		}
		if n != test.broken || !strings.Contains(out.String(), "9.00 (9.00..9.00) 9.00") {
			t.Errorf("%+v: %v\n%s", test, err, &out)
		}
	}
}
