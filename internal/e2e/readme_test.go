package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"plinth/internal/blob/blobtest"
)

const root = "../.."

// fence matches a fenced block of a Markdown file. Its first group is the kind in the comment before the block, <!-- e2e:
// kind -->.
var fence = regexp.MustCompile("(?m)(?:^<!-- e2e: (\\w+) -->\n)?^```(\\w*)\n((?s:.*?)\n)```$")

func blocks(t testing.TB, file string) [][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return fence.FindAllStringSubmatch(string(text), -1)
}

// The examples of the README work as they stand there, in their order.
func TestREADME(t *testing.T) {
	t.Parallel()
	tool(t, "curl")
	tool(t, "bash")
	dev, url := startDev(t, with(devEnv(t), blobtest.New(t).Env()))
	host := strings.TrimPrefix(url, "http://")
	ran := map[string]int{}
	for _, block := range blocks(t, "README.md") {
		kind, script := block[1], block[3]
		if kind == "" {
			continue
		}
		ran[kind]++
		t.Run(kind, func(t *testing.T) {
			requirements(t, kind)
			output := paste(t, strings.ReplaceAll(script, "localhost:8080", host))
			if !strings.Contains(script, taskQueue) {
				return
			}
			ids := uuidPattern.FindAllString(output, -1)
			if len(ids) == 0 {
				t.Errorf("it prints no id: %s", output)
			}
			for _, id := range ids {
				dev.says(t, `message handled.*`+id)
			}
		})
	}
	for _, kind := range []string{"rest", "grpcurl", "grpcweb"} {
		if ran[kind] == 0 {
			t.Errorf("the README has no block of the kind %s", kind)
		}
	}
	dev.stop(t)
}

var uuidPattern = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)

// requirements skips the blocks whose programs this machine does not have.
func requirements(t *testing.T, kind string) {
	t.Helper()
	switch kind {
	case "rest", "grpcurl":
	case "grpcweb":
		tool(t, "node")
		if _, err := os.Stat(root + "/web/node_modules/@connectrpc/connect-web"); err != nil {
			missing(t, "web/node_modules is not installed: npm --prefix web ci")
		}
	default:
		t.Fatalf("a block of the unknown kind %s", kind)
	}
}

// paste runs a block as a person would, except that it stops at the first command that fails, an HTTP error included.
func paste(t testing.TB, script string) string {
	t.Helper()
	path := pathWithGrpcurl(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", `curl() { command curl -sS --fail-with-body "$@"; }`+"\n"+script)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "PATH="+path)
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, output)
	}
	return string(output)
}

// The translation has the same blocks, byte for byte.
func TestREADMETranslation(t *testing.T) {
	t.Parallel()
	original, translated := blocks(t, "README.md"), blocks(t, "README.zh-CN.md")
	if len(original) == 0 || len(original) != len(translated) {
		t.Fatalf("README.md has %d blocks, README.zh-CN.md has %d", len(original), len(translated))
	}
	for i := range original {
		if !slices.Equal(original[i], translated[i]) {
			t.Errorf("block %d differs:\n%s\n%s", i+1, original[i][0], translated[i][0])
		}
	}
}
