// Command file measures how fast files go through the service to an S3 server and back, beside what the AWS SDK's transfer manager and a
// bare reverse proxy do, in the same run. ../README.md explains how to read it.
//
// It needs PostgreSQL (DATABASE_URL), where it makes a database of its own, and a bucket (S3_ENDPOINT, S3_BUCKET, AWS_ACCESS_KEY_ID,
// AWS_SECRET_ACCESS_KEY), where it leaves nothing.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"

	"plinth/bench/command"
)

// What is promised, as parts of what the transfer manager and the proxy do.
var promises = []struct {
	what, beside string
	least        float64
}{
	{"known length", "transfer manager", 1.4}, {"form", "transfer manager, form", 1.3}, {"unknown length", "transfer manager", 1.0}, {"download", "reverse proxy", 0.95},
}

func main() { command.Main(run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("file", flag.ContinueOnError)
	rounds := flags.Int("rounds", 5, "rounds, of which the median counts")
	mib := flags.Int64("mib", 256, "MiB of a file")
	check := flags.Bool("check", false, "fail if a promise is broken")
	short := flags.Bool("short", false, "1 round of 8 MiB: shows that it works, judges nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		*rounds, *mib = 1, 8
	}
	b, err := open(ctx, *mib<<20)
	defer b.close()
	if err != nil {
		return err
	}
	contests := []struct {
		name string
		run  func(ctx context.Context) error
	}{
		{"known length", b.put(b.plinth+"/api/v1/upload/a", true)}, {"form", b.form(b.plinth + "/api/v1/upload")}, {"unknown length", b.put(b.plinth+"/api/v1/upload/a", false)},
		{"transfer manager", b.put(b.manager+"/raw", true)}, {"transfer manager, form", b.form(b.manager + "/form")},
		{"download", b.get(b.plinth + b.content)}, {"reverse proxy", b.get(b.proxy)},
	}
	rates, cpu := map[string][]float64{}, map[string][]float64{}
	for range *rounds {
		for _, c := range contests {
			began, used := time.Now(), processTime()
			if err := c.run(ctx); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			rates[c.name] = append(rates[c.name], float64(*mib)/time.Since(began).Seconds())
			cpu[c.name] = append(cpu[c.name], (processTime()-used).Seconds()*1000/float64(*mib))
			if err := b.tidy(ctx); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(out, "%d rounds of %d MiB, median (least..most)\n\n| | MiB/s | CPU ms for each MiB, of client and server |\n| --- | --- | --- |\n", *rounds, *mib)
	for _, c := range contests {
		fmt.Fprintf(out, "| %s | %.0f (%.0f..%.0f) | %.2f |\n", c.name, median(rates[c.name]), slices.Min(rates[c.name]), slices.Max(rates[c.name]), median(cpu[c.name]))
	}
	fmt.Fprintf(out, "\nSHA-256 alone: %.2f ms of CPU for each MiB\n", hashing())
	asked, err := b.unchanged(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "a 304 asks the bucket %d times\n\n", asked)
	var broken []error
	if asked != 0 {
		broken = append(broken, errors.New("a 304 asks the bucket"))
	}
	for _, p := range promises {
		ratio := median(rates[p.what]) / median(rates[p.beside])
		fmt.Fprintf(out, "%s / %s: %.2f (promised: %.2f)\n", p.what, p.beside, ratio, p.least)
		if ratio < p.least {
			broken = append(broken, fmt.Errorf("%s is %.2f of %s, and %.2f was promised", p.what, ratio, p.beside, p.least))
		}
	}
	if *check {
		return errors.Join(broken...)
	}
	return nil
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// processTime returns the CPU time of this process, user and system. The S3 server's is not in it.
func processTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// hashing returns the milliseconds that the SHA-256 of a MiB takes.
func hashing() float64 {
	const mib = 256
	block, hash := make([]byte, 1<<20), sha256.New()
	used := processTime()
	for range mib {
		hash.Write(block)
	}
	hash.Sum(nil)
	return (processTime() - used).Seconds() * 1000 / mib
}

// filler is a body of size bytes.
func filler(size int64) io.Reader {
	return io.LimitReader(repeat(bytes.Repeat([]byte("0123456789abcdef"), 4096)), size)
}

type repeat []byte

func (r repeat) Read(p []byte) (n int, err error) {
	for n < len(p) {
		n += copy(p[n:], r)
	}
	return n, nil
}
