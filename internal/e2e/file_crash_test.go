package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	filev1 "plinth/api/plinth/file/v1"
	"plinth/internal/blob"
	"plinth/internal/blob/blobtest"
	"plinth/internal/pg/pgtest"
)

// crashing is a system whose processes and S3 server are killed at requests to the bucket, as proxies see them.
type crashing struct {
	*system
	s3     *blobtest.Server
	bucket *blob.Bucket // past the proxies
	db     *pgxpool.Pool
	envs   map[string]map[string]string // of server and worker
	byWho  map[string]*blobtest.Proxy   // requests of the server, of the worker

	revived <-chan struct{}
	read    map[string]bool // ids of files whose content was right
}

// ways are what clients do with files, each of which asks the bucket for something. A way returns the file that it was told of.
var ways = map[string]func(ctx context.Context, c filesOf) (*filev1.File, error){
	"put":    func(ctx context.Context, c filesOf) (*filev1.File, error) { return c.put(ctx, 100_000, true) },
	"form":   func(ctx context.Context, c filesOf) (*filev1.File, error) { return c.form(ctx, 6<<20) },
	"chunks": func(ctx context.Context, c filesOf) (*filev1.File, error) { return c.put(ctx, 9<<20, false) },
	"stream": func(ctx context.Context, c filesOf) (*filev1.File, error) {
		return uploadFile(ctx, c.FileServiceClient, &filev1.UploadInfo{Filename: "a"}, "hello", "world")
	},
	"url":       func(ctx context.Context, c filesOf) (*filev1.File, error) { return c.direct(ctx, 100_000, 0) },
	"part URLs": func(ctx context.Context, c filesOf) (*filev1.File, error) { return c.direct(ctx, 6<<20, 5<<20) },
	"copy": func(ctx context.Context, c filesOf) (*filev1.File, error) {
		return c.CopyFile(ctx, &filev1.CopyFileRequest{Id: c.old})
	},
	"delete": func(ctx context.Context, c filesOf) (*filev1.File, error) {
		f, err := c.CopyFile(ctx, &filev1.CopyFileRequest{Id: c.old})
		if err == nil {
			_, err = c.DeleteFile(ctx, &filev1.DeleteFileRequest{Id: f.GetId()})
		}
		return nil, err
	},
}

// Whatever dies at whatever request to the bucket: afterwards no row tells of bytes that are not there, no object is without a row,
// and quotas count what there is. Without CI=true, each way has one victim, at its last request.
func TestFilesSurviveCrashes(t *testing.T) {
	t.Parallel()
	everybody := []string{"server", "worker", "S3"}
	for i, name := range slices.Sorted(maps.Keys(ways)) {
		victims := everybody
		if !ci() {
			victims = everybody[i%len(everybody):][:1]
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startCrashing(t)
			c := s.files(t, "")
			old, err := c.put(t.Context(), 1000, true)
			if err != nil {
				t.Fatal(err)
			}
			crashes := 0
			for _, victim := range victims {
				for _, lost := range []bool{true, false} {
					last := s.crash(t, name, old, victim, lost, -1)
					for at := range last {
						if ci() || at == last-1 {
							s.crash(t, name, old, victim, lost, at)
							crashes++
						}
					}
				}
			}
			t.Logf("%d crashes", crashes)
		})
	}
}

func startCrashing(t *testing.T) *crashing {
	t.Helper()
	s := &crashing{s3: blobtest.New(t), envs: map[string]map[string]string{}, byWho: map[string]*blobtest.Proxy{}, read: map[string]bool{}}
	s.bucket = s.s3.Open(t, s.s3.Endpoint)
	env := with(backends(t, "postgres"), s.s3.Env())
	env["S3_PUBLIC_ENDPOINT"] = s.s3.Endpoint
	s.db = pgtest.Owner(t, env["DATABASE_URL"])
	for _, who := range []string{"server", "worker"} {
		s.byWho[who] = s.s3.Proxy(t)
		s.envs[who] = with(env, map[string]string{"S3_ENDPOINT": s.byWho[who].Endpoint})
	}
	s.system = &system{server: start(t, "server", s.envs["server"]), worker: start(t, "worker", s.envs["worker"])}
	s.url = "http://" + s.server.address(t)
	ready(t, s.url)
	return s
}

// crash does one way, and kills the victim at a request to the bucket, when it arrives or when it was done and the answer is lost. It
// returns how many requests there were at which the victim could have been killed; at -1, none is.
func (s *crashing) crash(t *testing.T, way string, old *filev1.File, victim string, lost bool, at int) (requests int) {
	t.Helper()
	what := fmt.Sprintf("%s, %s killed at request %d, done %v", way, victim, at, lost)
	var n atomic.Int64
	var once sync.Once
	died := make(chan struct{})
	kill := func() {
		once.Do(func() {
			switch victim {
			case "server":
				s.server.kill()
			case "worker":
				s.worker.kill()
			case "S3":
				s.s3.Kill()
			}
			close(died)
		})
	}
	for who, proxy := range s.byWho {
		proxy.Set(func(r *http.Request) blobtest.Fault {
			if victim != who && victim != "S3" || !ofObject(r) || n.Add(1)-1 != int64(at) {
				return blobtest.Fault{}
			}
			if lost {
				return blobtest.Fault{Lost: kill}
			}
			kill()
			return blobtest.Fault{CutUp: -1}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	told, err := ways[way](ctx, s.files(t, old.GetId()))
	if at < 0 && err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	within(t, 3*patience, what+": all is settled", func() bool {
		s.revive(t, died)
		s.exec(t, `UPDATE files SET writable_until = least(writable_until, now()), verify_at = least(verify_at, now()),
			due_at = CASE WHEN state = 'ready' OR state = 'verifying' THEN due_at ELSE least(due_at, now()) END`)
		s.exec(t, `SELECT pg_notify('plinth_files', '')`)
		return s.count(t, `SELECT count(*) FROM files WHERE state <> 'ready'`) == 0
	})
	for _, proxy := range s.byWho {
		proxy.Set(nil)
	}
	once.Do(func() {}) // A request that is on its way kills nobody any more.
	within(t, patience, what+": the bucket answers", func() bool {
		s.revive(t, died)
		_, _, err := s.bucket.List(t.Context(), "", "")
		return err == nil
	})
	s.check(t, what, told)
	return int(n.Load())
}

// ofObject reports whether a request is for an object, and not one of those that look at the bucket from time to time.
func ofObject(r *http.Request) bool {
	return strings.Count(r.URL.Path, "/") > 2 || strings.Contains(r.URL.Query().Get("prefix"), "/")
}

// revive starts again what has died.
func (s *crashing) revive(t *testing.T, died <-chan struct{}) {
	t.Helper()
	select {
	case <-died:
	default:
		return
	}
	if s.revived == died {
		return
	}
	s.revived = died
	s.s3.Kill() // If it has not been: it has no state but its folder.
	s.s3.Start(t)
	if ended(s.worker) {
		s.worker = start(t, "worker", s.envs["worker"])
	}
	if ended(s.server) {
		s.server = start(t, "server", s.envs["server"])
		s.url = "http://" + s.server.address(t)
		ready(t, s.url)
	}
}

func ended(p *process) bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// check wants rows, objects and quotas to agree.
func (s *crashing) check(t *testing.T, what string, told *filev1.File) {
	t.Helper()
	list, err := s.files(t, "").ListFiles(t.Context(), &filev1.ListFilesRequest{PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	keys, size, found := map[string]bool{}, int64(0), told == nil
	for _, f := range list.GetFiles() {
		keys[f.GetKey()], size, found = true, size+f.GetSize(), found || f.GetId() == told.GetId()
		if s.read[f.GetId()] {
			continue
		}
		s.read[f.GetId()] = true
		content, _, err := downloadFile(t.Context(), s.files(t, "").FileServiceClient, &filev1.DownloadFileRequest{Id: f.GetId()})
		if sum := sha256.Sum256([]byte(content)); err != nil || f.GetState() != filev1.FileState_FILE_STATE_READY || hex.EncodeToString(sum[:]) != f.GetChecksum() {
			t.Errorf("%s: %v has %d bytes, %v", what, f, len(content), err)
		}
	}
	if !found {
		t.Errorf("%s: the client was told of %v, which is not there", what, told)
	}
	objects, _, err := s.bucket.List(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if !keys[o.Key] {
			t.Errorf("%s: the object %s belongs to no file", what, o.Key)
		}
	}
	if begun, _, err := s.bucket.Uploads(t.Context(), "", blob.Begun{}); err != nil || len(begun) > 0 {
		t.Errorf("%s: uploads in parts are left: %+v, %v", what, begun, err)
	}
	const used = `SELECT coalesce(sum(n), 0)::bigint FROM (SELECT resource, n FROM tenant_usage UNION ALL SELECT resource, n FROM tenant_usage_deltas) AS u WHERE resource = `
	if files, bytes := s.count(t, used+`'file_count'`), s.count(t, used+`'file_bytes'`); files != int64(len(keys)) || bytes != size {
		t.Errorf("%s: quotas count %d files of %d bytes, and there are %d of %d", what, files, bytes, len(keys), size)
	}
}

func (s *crashing) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := s.db.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func (s *crashing) count(t *testing.T, sql string) (n int64) {
	t.Helper()
	if err := s.db.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// filesOf is a client of files, by every way.
type filesOf struct {
	filev1.FileServiceClient
	http *http.Client
	url  string
	old  string // id of a file that is there
}

func (s *crashing) files(t *testing.T, old string) filesOf {
	t.Helper()
	return filesOf{filev1.NewFileServiceClient(http2(t), s.url, connect.WithGRPC()), http1(t), s.url, old}
}

func content(size int) []byte { return bytes.Repeat([]byte("0123456789"), size/10+1)[:size] }

func (c filesOf) put(ctx context.Context, size int, known bool) (*filev1.File, error) {
	var body io.Reader = bytes.NewReader(content(size))
	if !known {
		body = struct{ io.Reader }{body}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.url+"/api/v1/upload/a", body)
	if err != nil {
		return nil, err
	}
	return c.answered(req)
}

// form uploads a form that lacks its last line break, so that it is mended within the bucket.
func (c filesOf) form(ctx context.Context, size int) (*filev1.File, error) {
	body := slices.Concat([]byte("--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n"), content(size), []byte("\r\n--x--"))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/api/v1/upload", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "multipart/form-data; boundary=x")
	return c.answered(req)
}

func (c filesOf) answered(req *http.Request) (*filev1.File, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%d %s %w", res.StatusCode, text, err)
	}
	f := &filev1.File{}
	return f, protojson.Unmarshal(text, f)
}

// direct uploads by URLs.
func (c filesOf) direct(ctx context.Context, size int, partSize int64) (*filev1.File, error) {
	bytes := content(size)
	req := &filev1.CreateUploadUrlRequest{Filename: "a", Size: proto.Int64(int64(size)), PartSize: partSize}
	if sum := sha256.Sum256(bytes); partSize == 0 {
		req.Checksum = hex.EncodeToString(sum[:])
	}
	upload, err := c.CreateUploadUrl(ctx, req)
	if err != nil {
		return nil, err
	}
	parts := []*filev1.PartUrl{{Url: upload.GetUrl(), Method: upload.GetMethod(), Headers: upload.GetHeaders(), Size: int64(size)}}
	if partSize > 0 {
		urls, err := c.CreatePartUrls(ctx, &filev1.CreatePartUrlsRequest{Id: upload.GetId(), First: 1, Count: 100})
		if err != nil {
			return nil, err
		}
		parts = urls.GetParts()
	}
	for _, p := range parts {
		if err := send(ctx, p, bytes[p.GetOffset():p.GetOffset()+p.GetSize()]); err != nil {
			return nil, err
		}
	}
	return c.CompleteUpload(ctx, &filev1.CompleteUploadRequest{Id: upload.GetId()})
}

// send sends a part to the bucket, without a key.
func send(ctx context.Context, p *filev1.PartUrl, part []byte) error {
	req, err := http.NewRequestWithContext(ctx, p.GetMethod(), p.GetUrl(), bytes.NewReader(part))
	if err != nil {
		return err
	}
	for name, value := range p.GetHeaders() {
		req.Header.Set(name, value)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("part %d: %s", p.GetNumber(), res.Status)
	}
	return nil
}
