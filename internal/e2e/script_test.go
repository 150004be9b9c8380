package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/rogpeppe/go-internal/testscript"

	messagev1 "plinth/api/plinth/message/v1"
)

// scripts plays the sessions of testdata/service on a running system. Beside testscript's own commands they have
//
//	curl args...           curl itself, with the administrator's key; it keeps the headers of the reply in the file head
//	anyone args...         curl without a key
//	grpcurl args...        grpcurl itself, with the administrator's key
//	status n               the HTTP status of the last reply
//	json path pattern      the value at a path such as .queues.0.name in the JSON of the last reply matches, as a whole;
//	                       with a ! there is no such value
//	keep NAME path         keeps such a value in a variable
//	await path pattern args...  asks with curl until the value matches
//	nack queue reasons...  publishes a message for each reason, receives it and gives it back
//	log process pattern    waits for a line in the log of the server or the worker
//
// What is between a system and its backends meets only the sessions where it matters.
func scripts(t *testing.T, sys *system) {
	tool(t, "curl")
	path := pathWithGrpcurl(t)
	sessions, _ := filepath.Glob("testdata/service/*.txtar")
	if !sys.plain() {
		sessions = nil
		for _, name := range []string{"deadletters", "delayed", "grpcurl", "pull", "queues", "topics"} {
			sessions = append(sessions, filepath.Join("testdata/service", name+".txtar"))
		}
	}
	testscript.Run(t, testscript.Params{
		Files: sessions,
		Setup: func(env *testscript.Env) error {
			env.Setenv("URL", sys.url)
			env.Setenv("ADMIN_KEY", adminKey)
			env.Setenv("HOST", strings.TrimPrefix(sys.url, "http://"))
			env.Setenv("PORT", sys.url[strings.LastIndex(sys.url, ":")+1:]) // for names that other systems on the same Redis do not have
			env.Setenv("PATH", path)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"curl": curl, "anyone": anyone, "grpcurl": grpcurl, "status": status, "json": jsonValue, "keep": keep, "await": await, "log": sys.awaitLog,
			"nack": sys.nack,
		},
	})
}

// TestConfigurationScripts plays the sessions of testdata/config: processes that do not start. Beside testscript's own
// commands they have
//
//	exits n binary args...    the binary ends with that status
func TestConfigurationScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/config",
		Setup: func(env *testscript.Env) error {
			env.Setenv("BIN", filepath.Dir(binary(t, "server")))
			env.Setenv("GOCOVERDIR", coverDir())
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits},
	})
}

func curl(ts *testscript.TestScript, neg bool, args []string) {
	anyone(ts, neg, append([]string{"--header", "Authorization: Bearer " + adminKey}, args...))
}

func grpcurl(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("grpcurl", append([]string{"-plaintext", "-H", "Authorization: Bearer " + adminKey}, args...)...)
	if (err != nil) != neg {
		ts.Fatalf("grpcurl ends with %v", err)
	}
}

func anyone(ts *testscript.TestScript, _ bool, args []string) {
	args = append([]string{"--silent", "--show-error", "--max-time", "30", "--dump-header", "head"}, args...)
	ts.Check(ts.Exec("curl", args...))
}

func status(ts *testscript.TestScript, _ bool, args []string) {
	head := ts.ReadFile("head")
	last := head[strings.LastIndex(head, "HTTP/"):] // A 100 may precede it.
	if got := strings.Fields(last)[1]; got != args[0] {
		ts.Fatalf("the status is %s", got)
	}
}

func jsonValue(ts *testscript.TestScript, neg bool, args []string) {
	value, found := lookup(ts, args[0])
	switch {
	case neg && found:
		ts.Fatalf("%s is %q", args[0], value)
	case neg:
	case !found:
		ts.Fatalf("there is no %s", args[0])
	case !regexp.MustCompile(`^(?:` + args[1] + `)$`).MatchString(value):
		ts.Fatalf("%s is %q", args[0], value)
	}
}

func await(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		curl(ts, false, args[2:])
		value, found := lookup(ts, args[0])
		if found && regexp.MustCompile(`^(?:`+args[1]+`)$`).MatchString(value) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s is %q", args[0], value)
		}
	}
}

func keep(ts *testscript.TestScript, _ bool, args []string) {
	value, found := lookup(ts, args[1])
	if !found {
		ts.Fatalf("there is no %s", args[1])
	}
	ts.Setenv(args[0], value)
}

// lookup finds a value in the JSON that the last command printed.
func lookup(ts *testscript.TestScript, path string) (value string, found bool) {
	var node any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &node))
	for _, key := range strings.Split(strings.TrimPrefix(path, "."), ".") {
		switch parent := node.(type) {
		case map[string]any:
			node, found = parent[key]
		case []any:
			i, err := strconv.Atoi(key)
			if found = err == nil && i < len(parent); found {
				node = parent[i]
			}
		default:
			found = false
		}
		if !found {
			return "", false
		}
	}
	if text, ok := node.(string); ok {
		return text, true
	}
	raw, err := json.Marshal(node)
	ts.Check(err)
	return string(raw), true
}

func (s *system) awaitLog(ts *testscript.TestScript, _ bool, args []string) {
	p := map[string]*process{"server": s.server, "worker": s.worker}[args[0]]
	_, err := p.log.await(regexp.MustCompile(args[1]))
	ts.Check(err)
}

func (s *system) nack(ts *testscript.TestScript, _ bool, args []string) {
	for _, reason := range args[1:] {
		ts.Check(s.giveBack(args[0], reason))
	}
}

func (s *system) giveBack(queue, reason string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	client := messagev1.NewMessageServiceClient(&http.Client{Transport: keyed{transport, adminKey}}, s.url, connect.WithGRPC())
	if _, err := client.Publish(ctx, &messagev1.PublishRequest{Queue: queue, Payload: text(reason)}); err != nil {
		return err
	}
	stream, err := client.Consume(ctx)
	if err != nil {
		return err
	}
	subscribe := &messagev1.Subscribe{Queue: queue, MaxOutstanding: 1}
	if err := stream.Send(&messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Subscribe{Subscribe: subscribe}}); err != nil {
		return err
	}
	res, err := stream.Receive()
	if err != nil {
		return err
	}
	nack := &messagev1.Nack{Items: []*messagev1.NackItem{{Id: res.GetMessages()[0].GetId(), Reason: reason}}}
	if err := stream.Send(&messagev1.ConsumeRequest{Request: &messagev1.ConsumeRequest_Nack{Nack: nack}}); err != nil {
		return err
	}
	if err := stream.CloseRequest(); err != nil {
		return err
	}
	if _, err := stream.Receive(); !errors.Is(err, io.EOF) { // A good end means that everything was settled.
		return fmt.Errorf("the stream ended: %w", err)
	}
	return stream.CloseResponse()
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(filepath.Join(ts.Getenv("BIN"), args[1]), args[2:]...)
	var exit *exec.ExitError
	got := 0
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("%s ends with status %d", args[1], got)
	}
}
