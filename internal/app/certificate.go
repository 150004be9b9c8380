package app

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"plinth/internal/loop"
)

// certificateEvery is how often the files of the certificate are read. They are small; and a notification would not tell of
// every way in which they are replaced, such as the symbolic links that Kubernetes swaps.
const certificateEvery = 5 * time.Second

// certificate is the certificate of the port, which is loaded again when its files change.
type certificate struct {
	certFile, keyFile string
	log               *zap.Logger
	current           atomic.Pointer[tls.Certificate]
	loaded            [sha256.Size]byte // digest of the files' content
	broken            bool              // the files do not load, and the log says so
}

// loadCertificate loads the certificate for the first time.
func loadCertificate(certFile, keyFile string, log *zap.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if _, err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// load loads the files if they have changed.
func (c *certificate) load() (changed bool, err error) {
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return false, err
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return false, err
	}
	digest := sha256.Sum256(append(cert, key...))
	if digest == c.loaded {
		return false, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return false, err
	}
	c.current.Store(&pair)
	c.loaded = digest
	return true, nil
}

// watch loads the certificate again when its files change, until ctx ends. While they do not load, the one before is served.
func (c *certificate) watch(ctx context.Context) error {
	loop.Every(ctx, certificateEvery, func(context.Context) { c.reload() })
	return nil
}

func (c *certificate) reload() {
	changed, err := c.load()
	if err != nil && !c.broken {
		c.log.Error("the TLS certificate is not renewed: its files do not load, so the one before is served on", zap.Error(err),
			zap.Time("expires", c.current.Load().Leaf.NotAfter))
	}
	if c.broken = err != nil; changed {
		c.log.Info("the TLS certificate is renewed", zap.Time("expires", c.current.Load().Leaf.NotAfter))
	}
}

// get returns the certificate for a handshake.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}
