package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"go.uber.org/zap"

	"plinth/bench/scratch"
	"plinth/internal/auth"
	"plinth/internal/blob"
	"plinth/internal/broker/postgres"
	"plinth/internal/file"
	"plinth/internal/message"
	"plinth/internal/pg"
	"plinth/internal/rpc"
)

const owner = "bench"

// bench are the servers that are compared, on one bucket and within this process.
type bench struct {
	plinth, manager, proxy string // their URLs
	content                string // path of a file of the service, which the proxy serves as well

	size   int64
	bucket *blob.Bucket
	direct *s3.Client
	name   string // of the bucket
	kept   string // key of the object that is downloaded
	etag   string
	client *http.Client
	ends   []func()
}

func (b *bench) close() {
	for i := len(b.ends) - 1; i >= 0; i-- {
		b.ends[i]()
	}
}

func open(ctx context.Context, size int64) (*bench, error) {
	b := &bench{size: size, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4, DisableCompression: true, WriteBufferSize: 128 << 10, ReadBufferSize: 128 << 10}}}
	endpoint := os.Getenv("S3_ENDPOINT")
	b.name = cmp.Or(os.Getenv("S3_BUCKET"), "plinth")
	key, secret, region := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), cmp.Or(os.Getenv("AWS_REGION"), "us-east-1")
	if endpoint == "" || key == "" {
		return b, errors.New("S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are needed")
	}
	b.direct = s3.New(s3.Options{
		BaseEndpoint: &endpoint, Region: region, UsePathStyle: true, Credentials: credentials.NewStaticCredentialsProvider(key, secret, ""),
	})
	var err error
	if b.bucket, err = blob.Open(ctx, blob.Config{
		Endpoint: endpoint, Bucket: b.name, ForcePathStyle: true, Conditional: true, Region: region, AccessKeyID: key, SecretAccessKey: secret,
	}); err != nil {
		return b, err
	}
	if err := b.openPlinth(ctx); err != nil {
		return b, err
	}
	b.manager = b.serve(b.transfers())
	if err := b.keep(ctx); err != nil {
		return b, err
	}
	request, err := b.bucket.SignGet(ctx, blob.Ref{Key: b.kept}, "application/octet-stream", "attachment", time.Hour)
	if err != nil {
		return b, err
	}
	signed, err := url.Parse(request.URL)
	if err != nil {
		return b, err
	}
	b.proxy = b.serve(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL, r.Out.Host = signed, signed.Host }})
	return b, nil
}

// openPlinth serves the service's routes behind the whole stack.
func (b *bench) openPlinth(ctx context.Context) error {
	databaseURL, drop, err := scratch.Database(ctx)
	if err != nil {
		return err
	}
	b.ends = append(b.ends, func() { _ = drop() })
	db, err := pg.Open(ctx, pg.Config{URL: databaseURL, MaxConns: 8})
	if err != nil {
		return err
	}
	b.ends = append(b.ends, db.Close)
	log := zap.NewNop()
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: databaseURL, Log: log})
	if err != nil {
		return err
	}
	messages := message.New(message.Config{DB: db, Handlers: db, System: db.System(), Notifier: notifier, Broker: postgres.New(db.System(), notifier, log), Log: log})
	files := file.New(file.Config{
		DB: db, System: db.System(), Notifier: notifier, Bucket: b.bucket, Messages: messages, Limits: file.Limits{Stall: time.Minute}, Log: log,
	})
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var ended sync.WaitGroup
	ended.Go(func() { notifier.Run(running) })
	b.ends = append(b.ends, func() { stop(); ended.Wait() })
	stack := rpc.New(rpc.Config{Log: log, Timeout: time.Minute, Authenticate: func(context.Context, string) (*auth.Principal, error) {
		return &auth.Principal{ID: "key:1", Tenant: auth.Tenant{Name: owner}, Scopes: []string{"*"}}, nil
	}})
	handler, err := stack.Handler(nil, file.NewHTTP(files).Routes())
	if err == nil {
		b.plinth = b.serve(handler)
	}
	return err
}

// transfers serves uploads as the transfer manager's own examples do them.
func (b *bench) transfers() http.Handler {
	manager := transfermanager.New(b.direct)
	upload := func(w http.ResponseWriter, r *http.Request, body io.Reader) {
		key := owner + "/manager"
		if _, err := manager.UploadObject(r.Context(), &transfermanager.UploadObjectInput{Bucket: &b.name, Key: &key, Body: body}); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /raw", func(w http.ResponseWriter, r *http.Request) { upload(w, r, r.Body) })
	mux.HandleFunc("POST /form", func(w http.ResponseWriter, r *http.Request) {
		form, err := r.MultipartReader()
		if err == nil {
			var part *multipart.Part
			if part, err = form.NextPart(); err == nil {
				upload(w, r, part)
				return
			}
		}
		http.Error(w, err.Error(), http.StatusBadRequest)
	})
	return mux
}

func (b *bench) serve(handler http.Handler) (address string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return ""
	}
	server := rpc.NewServer(handler, zap.NewNop())
	go func() { _ = server.Serve(listener) }()
	b.ends = append(b.ends, func() { _ = server.Close() })
	return "http://" + listener.Addr().String()
}

// send sends a request, reads the reply to its end, and returns how much that was.
func (b *bench) send(ctx context.Context, method, to string, body io.Reader, length int64, contentType string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		return 0, err
	}
	req.ContentLength = length
	req.Header.Set("Authorization", "Bearer x")
	req.Header.Set("Content-Type", contentType)
	res, err := b.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	n, err := io.Copy(io.Discard, res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	return n, err
}

func (b *bench) put(to string, known bool) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		length := b.size
		if !known {
			length = -1
		}
		_, err := b.send(ctx, http.MethodPut, to, filler(b.size), length, "application/octet-stream")
		return err
	}
}

func (b *bench) form(to string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		head, tail := "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n", "\r\n--x--\r\n"
		body := io.MultiReader(bytes.NewBufferString(head), filler(b.size), bytes.NewBufferString(tail))
		_, err := b.send(ctx, http.MethodPost, to, body, int64(len(head))+b.size+int64(len(tail)), "multipart/form-data; boundary=x")
		return err
	}
}

func (b *bench) get(from string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		n, err := b.send(ctx, http.MethodGet, from, nil, 0, "")
		if err == nil && n != b.size {
			err = fmt.Errorf("%d bytes of %d", n, b.size)
		}
		return err
	}
}

// keep uploads the file that is downloaded.
func (b *bench) keep(ctx context.Context) error {
	b.ends = append(b.ends, func() { b.kept = ""; _ = b.tidy(context.WithoutCancel(ctx)) })
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, b.plinth+"/api/v1/upload/kept", filler(b.size))
	if err != nil {
		return err
	}
	req.ContentLength = b.size
	req.Header.Set("Authorization", "Bearer x")
	res, err := b.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusCreated {
		return errors.New(res.Status)
	}
	var f struct{ Key, URL, Checksum string }
	if err := json.NewDecoder(res.Body).Decode(&f); err != nil {
		return err
	}
	b.kept, b.content, b.etag = f.Key, f.URL, `"`+f.Checksum+`"`
	return nil
}

// unchanged asks for the file that the client has, and returns how often the bucket is asked for that.
func (b *bench) unchanged(ctx context.Context) (asked int64, err error) {
	if err := b.bucket.Remove(ctx, b.kept); err != nil { // Whoever asked for it now would fail.
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.plinth+b.content, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer x")
	req.Header.Set("If-None-Match", b.etag)
	res, err := b.client.Do(req)
	if err != nil {
		return 0, err
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusNotModified {
		return 1, nil
	}
	return 0, nil
}

// tidy removes all objects but the one that is downloaded.
func (b *bench) tidy(ctx context.Context) error {
	out, err := b.direct.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: aws.String(owner + "/")})
	if err != nil {
		return err
	}
	for _, o := range out.Contents {
		if *o.Key == b.kept {
			continue
		}
		if _, err := b.direct.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.name, Key: o.Key}); err != nil {
			return err
		}
	}
	return nil
}
