package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	messagev1 "plinth/api/plinth/message/v1"
)

// Other people's clients work with the server. The programs in testdata/clients also show how to call it.
func TestClients(t *testing.T) {
	t.Parallel()
	protos := descriptorSet(t)
	allowed, refused := servePage(t, protos), servePage(t, protos)
	server := start(t, "server", with(backends(t, "postgres"), map[string]string{
		"CORS_ALLOWED_ORIGINS": allowed, "RATE_LIMIT_TENANT": "10000/m",
	}))
	t.Cleanup(func() { server.stop(t) })
	address := server.address(t)
	ready(t, "http://"+address)

	t.Run("grpcio", func(t *testing.T) {
		t.Parallel()
		checkGRPC(t, "grpcio", "http://"+address, program(t, python(t), "testdata/clients/grpcio.py", address, protos))
	})
	t.Run("grpc-js", func(t *testing.T) {
		t.Parallel()
		checkGRPC(t, "grpc-js", "http://"+address, node(t, "grpc-js.mjs", "@grpc/grpc-js", address, protos))
	})
	t.Run("browser", func(t *testing.T) {
		t.Parallel()
		checkBrowser(t, "http://"+address, allowed, refused)
	})
}

// failure is a failed call as the client saw it, with the error details by their types.
type failure struct {
	Code, Message string
	Details       map[string]map[string]any
}

// check compares the code, and checks that the failure has the details that every error of the server has, with the request
// id if one was sent.
func (f *failure) check(t testing.TB, code, requestID string) {
	t.Helper()
	switch {
	case f == nil || f.Code != code || f.Message == "":
		t.Errorf("got %+v, want a failure with the code %s and a message", f, code)
	case f.Details["google.rpc.ErrorInfo"]["domain"] != "plinth":
		t.Errorf("%s: the details are %v, want an ErrorInfo", code, f.Details)
	case requestID != "" && f.Details["google.rpc.RequestInfo"]["request_id"] != requestID:
		t.Errorf("%s: the details are %v, want the request id %s", code, f.Details, requestID)
	}
}

// checkGRPC runs a program that makes its calls over gRPC, with a queue of that name.
func checkGRPC(t *testing.T, name, url string, client *exec.Cmd) {
	t.Helper()
	var got struct {
		Published string
		Received  struct {
			ID, Payload string
			Attempt     int
		}
		NotFound   *failure `json:"not_found"`
		WithoutKey *failure `json:"without_key"`
		Deadline   *failure
	}
	output(t, client, &got)
	if r := got.Received; r.ID == "" || r.ID != got.Published || r.Payload != "hello from "+name || r.Attempt != 1 {
		t.Errorf("published %q, received %+v", got.Published, r)
	}
	got.NotFound.check(t, "NOT_FOUND", name+"-1")
	got.WithoutKey.check(t, "UNAUTHENTICATED", "")
	if got.Deadline == nil || got.Deadline.Code != "DEADLINE_EXCEEDED" { // The client itself reports it, without details.
		t.Errorf("a call whose time is over ends with %+v", got.Deadline)
	}
	if n := depth(t, url, name); n != 0 {
		t.Errorf("%d messages are left in the queue, want none: the one was acknowledged", n)
	}
}

// visit is what a page in the browser saw of the server.
type visit struct {
	Published  string
	Refused    *failure // of what was published
	Headers    map[string]string
	NotFound   *failure `json:"not_found"`
	WithoutKey *failure `json:"without_key"`
}

// checkBrowser opens the page at an origin that may call and at one that may not.
func checkBrowser(t *testing.T, url, allowed, refused string) {
	t.Helper()
	const queue = "page"
	newQueue(t, grpcClient(t, url), queue)
	chromium := tool(t, "chromium", "chromium-browser", "google-chrome")
	driver := node(t, "browser.mjs", "playwright-core", chromium, url, allowed+"/page.html", refused+"/page.html")
	driver.Env = append(driver.Env, "HOME="+t.TempDir()) // The browser writes there.
	var visits [2]map[string]visit                       // by protocol
	output(t, driver, &visits)
	for _, protocol := range []string{"connect", "grpc-web"} {
		t.Run(protocol, func(t *testing.T) {
			visits[0][protocol].mayCall(t)
			visits[1][protocol].mayNot(t)
		})
	}
	if n := depth(t, url, queue); n != 2 {
		t.Errorf("%d messages are in the queue, want those of the page that may call, one for each protocol", n)
	}
}

func (v visit) mayCall(t *testing.T) {
	t.Helper()
	if v.Refused != nil || !uuidPattern.MatchString(v.Published) {
		t.Errorf("publishing gives %q and %+v", v.Published, v.Refused)
	}
	if v.Headers["x-request-id"] != "page-1" || !strings.HasPrefix(v.Headers["ratelimit"], `"tenant";r=`) ||
		v.Headers["ratelimit-policy"] != `"tenant";q=10000;w=60` {
		t.Errorf("the page reads the headers %v", v.Headers)
	}
	v.NotFound.check(t, "NotFound", "page-2")
	v.WithoutKey.check(t, "Unauthenticated", "")
}

func (v visit) mayNot(t *testing.T) {
	t.Helper()
	if v.Published != "" || len(v.Headers) > 0 {
		t.Errorf("a page of another origin reads %q and the headers %v", v.Published, v.Headers)
	}
	for _, failed := range []*failure{v.Refused, v.NotFound, v.WithoutKey} {
		if failed == nil || failed.Message != "Failed to fetch" || len(failed.Details) > 0 { // The browser's own message.
			t.Errorf("a page of another origin reads %+v", failed)
		}
	}
}

func depth(t testing.TB, url, queue string) int64 {
	t.Helper()
	q, err := grpcClient(t, url).GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: queue})
	if err != nil {
		t.Fatal(err)
	}
	return q.GetDepth()
}

// python returns a Python that has Google's packages. On Debian that is the system's own.
func python(t testing.TB) string {
	t.Helper()
	for _, path := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(path, "-c", "import grpc, google.protobuf").Run() == nil {
			return path
		}
	}
	missing(t, "no python3 has grpcio and protobuf: apt-get install python3-grpcio python3-protobuf")
	return ""
}

// node returns a command that runs a program of testdata/clients on Node, with the packages of web.
func node(t testing.TB, file, needs string, args ...string) *exec.Cmd {
	t.Helper()
	return nodeWithin(t, 2*patience, file, needs, args...)
}

// nodeWithin is node with a time limit.
func nodeWithin(t testing.TB, limit time.Duration, file, needs string, args ...string) *exec.Cmd {
	t.Helper()
	path := tool(t, "node")
	if _, err := os.Stat(filepath.Join(root, "web/node_modules", needs)); err != nil {
		missing(t, needs+" is not installed: npm --prefix web ci")
	}
	source, err := os.ReadFile(filepath.Join("testdata/clients", file))
	if err != nil {
		t.Fatal(err)
	}
	cmd := programWithin(t, limit, path, append([]string{"--input-type=module", "-"}, args...)...)
	cmd.Dir = filepath.Join(root, "web")
	cmd.Stdin = bytes.NewReader(source)
	return cmd
}

// program returns a command that has the administrator's key in its environment, and a time limit.
func program(t testing.TB, path string, args ...string) *exec.Cmd {
	return programWithin(t, 2*patience, path, args...)
}

func programWithin(t testing.TB, limit time.Duration, path string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "no_proxy=127.0.0.1", "PLINTH_API_KEY="+adminKey)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // So that it also ends its browser.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// output runs a command and decodes the JSON that it prints. What it says besides is in the log of the test.
func output(t testing.TB, cmd *exec.Cmd, into any) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	printed, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(printed, into)
	}
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, printed, &stderr)
	}
	if stderr.Len() > 0 {
		t.Logf("%s says:\n%s", cmd.Path, &stderr)
	}
}

// descriptorSet writes the protos, and those of the error details, to a file as `buf build` does, for programs that have no
// generated code. It returns the path.
func descriptorSet(t testing.TB) string {
	t.Helper()
	var set descriptorpb.FileDescriptorSet
	seen := map[string]bool{}
	var add func(file protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if seen[file.Path()] {
			return
		}
		seen[file.Path()] = true
		for i := range file.Imports().Len() {
			add(file.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
	}
	add(messagev1.File_plinth_message_v1_message_proto)
	add(statuspb.File_google_rpc_status_proto)
	add(errdetails.File_google_rpc_error_details_proto)
	data, err := proto.Marshal(&set)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "protos.binpb")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// servePage serves the page and the modules that it imports. It returns their origin, which is another one each time.
func servePage(t testing.TB, protos string) (origin string) {
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir("testdata/clients")))
	mux.Handle("/node_modules/", http.FileServer(http.Dir(filepath.Join(root, "web"))))
	mux.Handle("/gen/", http.FileServer(http.Dir(filepath.Join(root, "web/src"))))
	mux.HandleFunc("/protos.binpb", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, protos) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}
