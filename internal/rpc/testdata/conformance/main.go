// Command conformance is a server for the Connect conformance suite: the suite's own service behind the stack and the server
// of production. The script run builds it and the suite, and says what must hold.
//
// Wildcards such as ./... leave it out, because only that script generates the code of the suite's protos.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/protobuf/proto"

	conformancev1 "plinth/.buf/conformance/connectrpc/conformance/v1"
	"plinth/internal/rpc"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// run serves what the suite requests on stdin until the suite ends the process. It writes its address to stdout.
func run() error {
	var wanted conformancev1.ServerCompatRequest
	if err := read(os.Stdin, &wanted); err != nil {
		return fmt.Errorf("read what the suite wants: %w", err)
	}
	handler, err := newHandler(int(wanted.GetMessageReceiveLimit()))
	if err != nil {
		return err
	}
	server := rpc.NewServer(handler, zap.NewNop())
	if wanted.GetUseTls() {
		if server.TLSConfig, err = tlsConfig(&wanted); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := listener.Addr().(*net.TCPAddr)
	if err := write(os.Stdout, &conformancev1.ServerCompatResponse{
		Host: address.IP.String(), Port: uint32(address.Port), PemCert: wanted.GetServerCreds().GetCert(),
	}); err != nil {
		return fmt.Errorf("tell the suite the port: %w", err)
	}
	if wanted.GetUseTls() {
		return server.ServeTLS(listener, "", "")
	}
	return server.Serve(listener)
}

// newHandler returns the production stack around the suite's service. The suite only chooses the most bytes of a message, if
// limit is not 0.
func newHandler(limit int) (http.Handler, error) {
	// Log lines are encoded as in production, and discarded.
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(io.Discard), zap.DebugLevel))
	stack := rpc.New(rpc.Config{Log: log, Timeout: 30 * time.Second, Public: public()})
	return stack.Handler([]rpc.Service{func(options ...connect.HandlerOption) (string, http.Handler) {
		if limit > 0 {
			options = append(options, connect.WithReadMaxBytes(limit))
		}
		return conformancev1.NewConformanceServiceHandler(service{}, options...)
	}}, nil)
}

// public returns the methods of the suite's service, which have no scopes: anyone may call them.
func public() (paths []string) {
	methods := conformancev1.File_connectrpc_conformance_v1_service_proto.Services().ByName("ConformanceService").Methods()
	for i := range methods.Len() {
		paths = append(paths, "/"+conformancev1.ConformanceServiceName+"/"+string(methods.Get(i).Name()))
	}
	return paths
}

func tlsConfig(wanted *conformancev1.ServerCompatRequest) (*tls.Config, error) {
	certificate, err := tls.X509KeyPair(wanted.GetServerCreds().GetCert(), wanted.GetServerCreds().GetKey())
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}
	if clients := wanted.GetClientTlsCert(); len(clients) > 0 {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(clients) {
			return nil, errors.New("the certificate for clients does not parse")
		}
	}
	return config, nil
}

// read reads a message that is preceded by its length, in four bytes, big-endian.
func read(r io.Reader, m proto.Message) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	data := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	return proto.Unmarshal(data, m)
}

// write is the counterpart of read.
func write(w io.Writer, m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}
