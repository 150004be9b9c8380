package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	messagev1 "plinth/api/plinth/message/v1"
)

// devEnv returns an environment for cmd/dev that names no backend but an S3 that does not exist: a private one would have to
// be built first.
func devEnv(t testing.TB) map[string]string {
	return map[string]string{
		"DATA_DIR": filepath.Join(t.TempDir(), "data"), "HTTP_ADDR": "127.0.0.1:0",
		"ADMIN_ADDR": "", "S3_ENDPOINT": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none",
	}
}

// cmd/dev is the whole service in one command. It starts from nothing, keeps its data, and leaves no process behind.
func TestDev(t *testing.T) {
	t.Parallel()
	env := devEnv(t)
	env["ADMIN_ADDR"] = "127.0.0.1:0"
	dev, url := startDev(t, env)
	dev.says(t, `^Plinth runs on `+regexp.QuoteMeta(url)+`;`)
	client := messagev1.NewMessageServiceClient(http1(t), url)
	id := publish(t, client, taskQueue, "hello dev")[0]
	dev.says(t, `task.*`+id+`.*hello dev`)
	publish(t, client, "kept", "until somebody comes") // This creates the queue.
	admin := dev.admin(t)
	eventually(t, "the page has the trace of the message, without any collector", func() bool {
		traces := bodyOf(admin + "/debug/traces")
		return bytes.Contains(traces, []byte("plinth.message.v1.MessageService/Publish")) && bytes.Contains(traces, []byte("process "+taskQueue))
	})
	children := descendants(t, dev.cmd.Process.Pid)
	if len(children) == 0 {
		t.Fatal("it runs without any child: there is no private PostgreSQL")
	}
	before := time.Now()
	dev.signal(t, syscall.SIGINT)
	if status := dev.exit(t, patience); status != 0 {
		t.Errorf("after SIGINT it ends with status %d", status)
	}
	if took := time.Since(before); took > 4*time.Second { // 2 s on a machine that does nothing else
		t.Errorf("after SIGINT it takes %s", took)
	}
	gone(t, children)

	dev, url = startDev(t, env)
	wantKept(t, url)
	children = descendants(t, dev.cmd.Process.Pid)
	dev.kill()
	gone(t, children)

	dev, url = startDev(t, env)
	wantKept(t, url)
	dev.stop(t)
}

// startDev starts cmd/dev and waits until it can be used.
func startDev(t *testing.T, env map[string]string) (dev *process, url string) {
	t.Helper()
	dev = start(t, "dev", env)
	url = "http://" + dev.address(t)
	ready(t, url)
	return dev, url
}

func wantKept(t testing.TB, url string) {
	t.Helper()
	client := messagev1.NewMessageServiceClient(http2(t), url, connect.WithGRPC())
	q, err := client.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: "kept"})
	if err != nil || q.GetDepth() != 1 {
		t.Errorf("the queue that was there before is %v, %v", q, err)
	}
}

// If the port is taken, dev prints one line that says what to do.
func TestDevOnATakenPort(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	address := listener.Addr().String()
	output, err := command(t, "dev", with(devEnv(t), map[string]string{"HTTP_ADDR": address})).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ends with %v", err)
	}
	if text := string(output); strings.Count(text, "\n") != 1 || !strings.Contains(text, address+" is taken") {
		t.Errorf("it says: %s", text)
	}
}

// Without S3_ENDPOINT dev builds an S3 server, unless the user has it already, and runs it.
func TestDevBuildsS3(t *testing.T) {
	t.Parallel()
	env := devEnv(t)
	delete(env, "S3_ENDPOINT")
	dev, url := startDev(t, env)
	for deadline := time.Now().Add(5 * time.Minute); !bytes.Contains(bodyOf(url+"/health"), []byte(`"s3":"ok"`)); {
		if time.Now().After(deadline) {
			t.Fatal("S3 does not come")
		}
		<-time.After(time.Second)
	}
	if got := statusOf(url + "/readyz"); got != http.StatusOK {
		t.Errorf("/readyz answers %d", got)
	}
	children := descendants(t, dev.cmd.Process.Pid)
	dev.stop(t)
	gone(t, children)
}

// descendants returns the ids of all processes below root.
func descendants(t testing.TB, root int) (found []int) {
	t.Helper()
	output, err := exec.Command(tool(t, "ps"), "-A", "-o", "pid=,ppid=").Output()
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]int{}
	for line := range strings.Lines(string(output)) {
		var pid, parent int
		if _, err := fmt.Sscan(line, &pid, &parent); err != nil {
			t.Fatal(err)
		}
		children[parent] = append(children[parent], pid)
	}
	for next := []int{root}; len(next) > 0; next = next[1:] {
		found = append(found, children[next[0]]...)
		next = append(next, children[next[0]]...)
	}
	return found
}

// gone waits until all of the processes have ended.
func gone(t testing.TB, pids []int) {
	t.Helper()
	ps := tool(t, "ps")
	for _, pid := range pids {
		eventually(t, "process "+strconv.Itoa(pid)+" is gone", func() bool {
			state, err := exec.Command(ps, "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
			return err != nil || bytes.HasPrefix(bytes.TrimSpace(state), []byte("Z"))
		})
	}
}
