package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	filev1 "plinth/api/plinth/file/v1"
	"plinth/internal/auth"
	"plinth/internal/rpc"
)

// served serves the RPCs of a fixture to the tenant acme. ended gets the path of each call whose handler has returned.
func (f fixture) served(t *testing.T) (url string, ended <-chan string) {
	t.Helper()
	stack := rpc.New(rpc.Config{
		Log: zap.NewNop(), Timeout: patience,
		Authenticate: func(context.Context, string) (*auth.Principal, error) {
			return &auth.Principal{ID: "key:1", Tenant: auth.Tenant{Name: "acme"}, Scopes: []string{"*"}}, nil
		},
	})
	calls := make(chan string, 100)
	handler, err := stack.Handler([]rpc.Service{func(o ...connect.HandlerOption) (string, http.Handler) {
		path, next := filev1.NewFileServiceHandler(NewRPC(f.Service), append(o, Uncompressed())...)
		return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r)
			calls <- r.URL.Path
		})
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, handler), calls
}

// clients are clients over each protocol.
func (f fixture) clients(t *testing.T, url string, dial func(ctx context.Context, network, addr string) (net.Conn, error)) map[string]filev1.FileServiceClient {
	t.Helper()
	clients := map[string]filev1.FileServiceClient{}
	for name, options := range map[string][]connect.ClientOption{"connect": nil, "grpc": {connect.WithGRPC()}, "grpc-web": {connect.WithGRPCWeb()}} {
		clients[name] = filev1.NewFileServiceClient(client(t, name == "grpc", dial), url, options...)
	}
	return clients
}

// client returns a client of HTTP/1.1 or HTTP/2. Without dial it connects as usual.
func client(t *testing.T, http2 bool, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	t.Helper()
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(http2)
	protocols.SetHTTP1(!http2)
	transport := &http.Transport{Protocols: protocols, DialContext: dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: withKey{transport}}
}

type withKey struct{ http.RoundTripper }

func (w withKey) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("Authorization", "Bearer x")
	return w.RoundTripper.RoundTrip(r)
}

// A client that stops in the middle of a stream does not hold the upload, or the storage, for ever.
func TestStreamsThatStall(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{Stall: time.Second})
	f.work(t)
	large := f.upload(t, "acme", Upload{Filename: "a", Size: 64 << 20}, bytes.Repeat([]byte("0123456789abcdef"), 4<<20))
	var all sync.WaitGroup
	for _, name := range []string{"connect", "grpc", "grpc-web"} {
		url, ended := f.served(t)
		client := f.clients(t, url, nil)[name]
		all.Go(func() { f.stall(t, name, client, large, ended) })
	}
	all.Wait()
	if err := f.DeleteFile(as(t, "acme"), large.ID); err != nil {
		t.Fatal(err)
	}
	f.noTrace(t, "acme")
}

// slowConn is read at slowRate, also on a machine that is busy now and then.
type slowConn struct {
	net.Conn
	began time.Time
	read  int
}

// slowRate is in bytes a second.
const slowRate = 64 << 10

func dialSlow(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		err = conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	}
	return &slowConn{Conn: conn, began: time.Now()}, err
}

func (c *slowConn) Read(p []byte) (int, error) {
	<-time.After(time.Until(c.began.Add(time.Duration(c.read) * time.Second / slowRate)))
	n, err := c.Conn.Read(p[:min(4<<10, len(p))])
	c.read += n
	return n, err
}

// A client that is slow gets all of a file, however long each chunk takes, as long as it takes some bytes of it.
func TestSlowDownloads(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{Stall: 3 * time.Second}) // A chunk takes 4 s.
	content := random(3 * chunkSize)
	f := s.upload(t, "acme", Upload{Filename: "a", Size: int64(len(content))}, content)
	var all sync.WaitGroup
	defer all.Wait()
	for _, http2 := range []bool{false, true} {
		slow := client(t, http2, dialSlow)
		all.Go(func() {
			res, err := slow.Get(s.url + "/api/v1/files/" + f.ID + "/content")
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = res.Body.Close() }()
			if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, content) {
				t.Errorf("HTTP/2 %v: %d bytes, %v", http2, len(got), err)
			}
		})
	}
	url, _ := s.served(t)
	for name, slow := range s.clients(t, url, dialSlow) {
		all.Go(func() {
			down, err := slow.DownloadFile(t.Context(), &filev1.DownloadFileRequest{Id: f.ID})
			var got []byte
			for err == nil && down.Receive() {
				got = append(got, down.Msg().GetData()...)
			}
			if err == nil {
				err = down.Err()
			}
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		})
	}
}

// A download comes in chunks that are not compressed, whatever the client accepts, and the first one has the file.
func TestChunksOfDownloads(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Limits{Stall: patience})
	content := bytes.Repeat([]byte("0123456789abcdef"), chunkSize/8)
	file := f.upload(t, "acme", Upload{Filename: "a", Size: int64(len(content))}, content)
	url, _ := f.served(t)
	envelope := func(m proto.Message) []byte {
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(data))), data...)
	}
	ask := envelope(&filev1.DownloadFileRequest{Id: file.ID, Offset: 10, Length: 2*chunkSize - 20})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+filev1.FileServiceDownloadFileProcedure, bytes.NewReader(ask))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/connect+proto")
	req.Header.Set("Connect-Accept-Encoding", "gzip")
	res, err := client(t, false, nil).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var got []byte
	for i := 0; ; i++ {
		prefix := make([]byte, 5)
		if _, err := io.ReadFull(res.Body, prefix); err != nil {
			t.Fatal(err)
		}
		data := make([]byte, binary.BigEndian.Uint32(prefix[1:]))
		if _, err := io.ReadFull(res.Body, data); err != nil {
			t.Fatal(err)
		}
		if prefix[0] == 2 { // the end
			break
		}
		m := &filev1.DownloadFileResponse{}
		if err := proto.Unmarshal(data, m); err != nil || prefix[0] != 0 || len(m.GetData()) > chunkSize || (m.GetFile() != nil) != (i == 0) {
			t.Errorf("message %d: flags %d, %d bytes, %v, %v", i, prefix[0], len(m.GetData()), m.GetFile(), err)
		}
		got = append(got, m.GetData()...)
	}
	if !bytes.Equal(got, content[10:2*chunkSize-10]) {
		t.Errorf("%d other bytes", len(got))
	}
}

// stall begins an upload and a download of a large file, and stops in the middle.
func (f fixture) stall(t *testing.T, name string, client filev1.FileServiceClient, large File, ended <-chan string) {
	t.Helper()
	stream, err := client.UploadFile(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	_ = stream.Send(&filev1.UploadFileRequest{Part: &filev1.UploadFileRequest_Info{Info: &filev1.UploadInfo{Filename: name}}})
	_ = stream.Send(&filev1.UploadFileRequest{Part: &filev1.UploadFileRequest_Chunk{Chunk: []byte("hello")}})
	f.wantEnd(t, name+", upload", ended)
	if _, err := stream.CloseAndReceive(); connect.CodeOf(err) != connect.CodeDeadlineExceeded && name == "grpc" {
		t.Errorf("%s: %v", name, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	down, err := client.DownloadFile(ctx, &filev1.DownloadFileRequest{Id: large.ID})
	if err != nil || !down.Receive() {
		t.Error(name, err)
		return
	}
	f.wantEnd(t, name+", download", ended)
	cancel()
	_ = down.Close()
}

func (f fixture) wantEnd(t *testing.T, what string, ended <-chan string) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Errorf("%s: it goes on", what)
	}
}
