// Command tessera appends entries to a Tessera log on its POSIX driver and prints, as JSON, what that took:
//
//	tessera DIR ENTRIES BYTES WRITERS CHECKPOINT_MS
//
// WRITERS hands append one entry each and wait until a signed, published checkpoint covers it, then the next. The driver
// keeps its defaults, but for the checkpoint's interval.
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

type result struct {
	Entries          int     `json:"entries"`
	Seconds          float64 `json:"seconds"`
	EntriesPerSecond float64 `json:"entriesPerSecond"`
	CPUMicros        float64 `json:"cpuMicros"`
}

func main() {
	out, err := run(os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) (*result, error) {
	if len(args) != 5 {
		return nil, fmt.Errorf("usage: tessera DIR ENTRIES BYTES WRITERS CHECKPOINT_MS")
	}
	var number [4]int
	for i := range number {
		var err error
		if number[i], err = strconv.Atoi(args[i+1]); err != nil {
			return nil, err
		}
	}
	entries, size, writers, interval := number[0], number[1], number[2], number[3]
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	skey, _, err := note.GenerateKey(rand.Reader, "bench.example/log")
	if err != nil {
		return nil, err
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return nil, err
	}
	driver, err := posix.New(ctx, posix.Config{Path: args[0]})
	if err != nil {
		return nil, err
	}
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(time.Duration(interval) * time.Millisecond)
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, options)
	if err != nil {
		return nil, err
	}
	awaiter := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 20*time.Millisecond)

	var next atomic.Int64
	var failed atomic.Pointer[error]
	var hands sync.WaitGroup
	before := cpu()
	began := time.Now()
	for range writers {
		hands.Go(func() {
			data := make([]byte, size)
			_, _ = rand.Read(data)
			for failed.Load() == nil {
				n := next.Add(1)
				if n > int64(entries) {
					return
				}
				entry := append([]byte(nil), data...)
				binary.BigEndian.PutUint64(entry, uint64(n))
				if _, _, err := awaiter.Await(ctx, appender.Add(ctx, tessera.NewEntry(entry))); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	hands.Wait()
	seconds := time.Since(began).Seconds()
	micros := cpu() - before
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	if err := shutdown(ctx); err != nil {
		return nil, err
	}
	return &result{entries, seconds, float64(entries) / seconds, micros / float64(entries)}, nil
}

func cpu() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	micros := func(t syscall.Timeval) float64 { return float64(t.Sec)*1e6 + float64(t.Usec) }
	return micros(usage.Utime) + micros(usage.Stime)
}
