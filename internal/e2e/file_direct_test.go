package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	filev1 "plinth/api/plinth/file/v1"
)

// A page of another origin uploads to, and downloads from, the S3 server of cmd/dev as it is, by the URLs that it was given.
func TestPageUsesURLs(t *testing.T) {
	t.Parallel()
	chromium := tool(t, "chromium", "chromium-browser", "google-chrome")
	env := devEnv(t)
	delete(env, "S3_ENDPOINT")
	dev, url := startDev(t, env)
	files := filev1.NewFileServiceClient(http1(t), url)
	content := "from a page"
	sum := sha256.Sum256([]byte(content))
	request := &filev1.CreateUploadUrlRequest{
		Filename: "page.txt", ContentType: "text/plain", Size: proto.Int64(int64(len(content))), Checksum: hex.EncodeToString(sum[:]),
	}
	upload, err := files.CreateUploadUrl(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Minute); statusOf(upload.GetUrl()) == 0; <-time.After(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the S3 server does not come")
		}
	}
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<!DOCTYPE html>")) }))
	defer page.Close()
	fetch := func(request map[string]any) (got struct {
		Status int
		Text   string
	}) {
		t.Helper()
		text, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		driver := node(t, "fetch.mjs", "playwright-core", chromium, page.URL, string(text))
		driver.Env = append(driver.Env, "HOME="+t.TempDir())
		output(t, driver, &got)
		return got
	}
	dev.says(t, `Plinth runs on`)
	put := map[string]any{"url": upload.GetUrl(), "method": upload.GetMethod(), "headers": upload.GetHeaders(), "body": content}
	if got := fetch(put); got.Status != http.StatusOK {
		t.Fatalf("%+v", got)
	}
	if f, err := files.CompleteUpload(t.Context(), &filev1.CompleteUploadRequest{Id: upload.GetId()}); err != nil || f.GetState() != filev1.FileState_FILE_STATE_READY {
		t.Fatal(f, err)
	}
	if got := fetch(put); got.Status != http.StatusPreconditionFailed {
		t.Errorf("sent again: %+v", got)
	}
	download, err := files.CreateDownloadUrl(t.Context(), &filev1.CreateDownloadUrlRequest{Id: upload.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	if got := fetch(map[string]any{"url": download.GetUrl()}); got.Status != http.StatusOK || got.Text != content {
		t.Errorf("%+v", got)
	}
}
