package rpc

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"testing"
)

// What is larger than a message once it is unpacked is unpacked up to that size, and no further however often it is read.
func TestUnpackingStops(t *testing.T) {
	t.Parallel()
	const size = 16 * MaxMessageBytes
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(make([]byte, size))
	_ = w.Close()
	whole := packed.Len()
	u := &unpacker{}
	if err := u.Reset(&packed); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if n, err := io.Copy(io.Discard, u); !errors.Is(err, errTooLarge) || n > MaxMessageBytes {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	if packed.Len() < whole/2 {
		t.Errorf("%d of %d bytes were read", whole-packed.Len(), whole)
	}
}
