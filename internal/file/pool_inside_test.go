package file

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"plinth/internal/errs"
)

// Many uploads that share memory for a few parts all go on, whatever the order in which their bytes come, and never hold more.
func TestPoolGoesOn(t *testing.T) {
	t.Parallel()
	p := newPool(partSize + partSize/2)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var uploads sync.WaitGroup
	for i := range 20 {
		uploads.Go(func() {
			place := p.join(strconv.Itoa(i % 3))
			defer place.leave()
			var sending sync.WaitGroup
			defer sending.Wait()
			for range 3 {
				part := place.begin()
				if err := part.readFrom(ctx, newIntake(endless("0123456789abcdef"), 1<<40)); err != nil {
					t.Error(err)
					part.free()
					return
				}
				part.filled()
				sending.Go(func() {
					<-time.After(time.Duration(rand.IntN(5)) * time.Millisecond)
					part.free()
				})
			}
		})
	}
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		for watching.Err() == nil {
			p.mu.Lock()
			if p.lent > p.total || p.sending > p.lent || len(p.spare)+p.lent > p.total {
				t.Errorf("%d of %d blocks are lent, %d of them are sent, %d are spare", p.lent, p.total, p.sending, len(p.spare))
			}
			p.mu.Unlock()
			<-time.After(time.Millisecond)
		}
	})
	uploads.Wait()
	stop()
	watch.Wait()
	if p.lent != 0 || p.sending != 0 || len(p.spare) != 0 || len(p.places) != 0 || len(p.owners) != 0 {
		t.Errorf("%d blocks are lent in the end, %d sent, %d spare, of %d", p.lent, p.sending, len(p.spare), len(p.places))
	}
}

// Slow uploads hold what they sent, and no more: others find memory.
func TestSlowUploadsHoldLittle(t *testing.T) {
	t.Parallel()
	p := newPool(2 * partSize)
	for range 50 {
		place := p.join("acme")
		defer place.leave()
		if _, err := place.take(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	place := p.join("acme")
	defer place.leave()
	part := place.begin()
	defer part.free()
	if err := part.readFrom(ctx, newIntake(endless("x"), 1<<40)); err != nil || part.size != partSize {
		t.Errorf("%d bytes, %v", part.size, err)
	}
}

// A tenant whose uploads hold all that they can get and do not go on leaves others room for a part.
func TestOneTenantLeavesMemory(t *testing.T) {
	t.Parallel()
	p := newPool(poolBytes)
	var greedy []*place
	for range 20 {
		greedy = append(greedy, p.join("greedy"))
	}
	for took := true; took; {
		took = false
		for _, at := range greedy {
			p.mu.Lock()
			ok := at.held < partBlocks-1 && p.mayLend(at)
			p.mu.Unlock()
			if ok {
				_, _ = at.take(t.Context())
				took = true
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 3 {
		place := p.join("acme")
		part := place.begin()
		if err := part.readFrom(ctx, newIntake(endless("x"), 1<<40)); err != nil || part.size != partSize {
			t.Errorf("%d bytes, %v", part.size, err)
		}
		part.filled()
		part.free()
		place.leave()
	}
	if p.owners["greedy"].lent < p.total/2 {
		t.Errorf("a tenant that is alone gets %d blocks of %d", p.owners["greedy"].lent, p.total)
	}
}

// Whoever waits for memory stops waiting when its call ends.
func TestWaitingForMemoryEnds(t *testing.T) {
	t.Parallel()
	p := newPool(partSize)
	first, second := p.join("acme"), p.join("acme")
	for range partBlocks {
		if _, err := first.take(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := second.take(ctx); !errs.Is(err, errs.Canceled) {
		t.Error(err)
	}
}

func TestBufferReads(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, blockSize - 1, blockSize, blockSize + 1, 3*blockSize + 7, partSize} {
		content := bytes.Repeat([]byte("0123456789abcdefg"), size/17+1)[:size]
		p := newPool(poolBytes)
		place := p.join("acme")
		part := place.begin()
		if err := part.readFrom(t.Context(), newIntake(bytes.NewReader(content), 1<<40)); err != nil {
			t.Fatal(err)
		}
		r := part.reader()
		for range 2 {
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, content) || part.size != int64(size) {
				t.Errorf("%d bytes are %d, %v", size, len(got), err)
			}
			if _, err := r.Seek(0, io.SeekStart); err != nil {
				t.Error(err)
			}
		}
		if end, err := r.Seek(0, io.SeekEnd); err != nil || end != int64(size) {
			t.Errorf("the end is %d, %v", end, err)
		}
		part.free()
		part.free()
		place.leave()
	}
}
