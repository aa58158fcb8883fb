package main

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type result struct {
	Done    int     `json:"done"`
	Failed  int     `json:"failed"`
	Failure string  `json:"failure,omitempty"`
	Seconds float64 `json:"seconds"`
	// milliseconds
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	// of this process, user and system, milliseconds
	CPUMs float64 `json:"cpuMs"`
}

// What several hands counted.
type tally struct {
	mu        sync.Mutex
	latencies []time.Duration
	failed    int
	failure   string
	began     time.Time
	cpu       float64
}

func begin() *tally { return &tally{began: time.Now(), cpu: cpuMs()} }

func (t *tally) add(latencies []time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.latencies = append(t.latencies, latencies...)
	if err != nil {
		t.failed++
		t.failure = err.Error()
	}
}

func (t *tally) result() result {
	seconds := time.Since(t.began).Seconds()
	cpu := cpuMs() - t.cpu
	slices.Sort(t.latencies)
	at := func(share float64) float64 {
		if len(t.latencies) == 0 {
			return 0
		}
		return float64(t.latencies[int(share*float64(len(t.latencies)-1))].Microseconds()) / 1000
	}
	return result{len(t.latencies), t.failed, t.failure, seconds, at(0.5), at(0.95), at(0.99), cpu}
}

func connects(p *pki, c command) (any, error) {
	if err := issue(p, c.Count); err != nil {
		return nil, err
	}
	t := begin()
	each(c, func(n int) ([]time.Duration, error) {
		since := time.Now()
		s, err := connect(p, c.Address, n)
		if err != nil {
			return nil, err
		}
		took := time.Since(since)
		s.end()
		return []time.Duration{took}, nil
	}, t)
	return t.result(), nil
}

func hold(p *pki, c command) ([]*session, any, error) {
	if err := issue(p, c.Count); err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	var held []*session
	t := begin()
	each(c, func(n int) ([]time.Duration, error) {
		since := time.Now()
		s, err := connect(p, c.Address, n)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		held = append(held, s)
		mu.Unlock()
		return []time.Duration{time.Since(since)}, nil
	}, t)
	return held, t.result(), nil
}

// Runs `one` for 0 to c.Count, c.Hands at a time, until the time is up.
func each(c command, one func(n int) ([]time.Duration, error), t *tally) {
	deadline := time.Now().Add(time.Duration(c.Seconds) * time.Second)
	var next atomic.Int64
	var hands sync.WaitGroup
	for range c.Hands {
		hands.Go(func() {
			for time.Now().Before(deadline) {
				n := int(next.Add(1)) - 1
				if n >= c.Count {
					return
				}
				t.add(one(n))
			}
		})
	}
	hands.Wait()
}

func issue(p *pki, count int) error {
	for n := range count {
		if _, err := p.device(n); err != nil {
			return err
		}
	}
	return nil
}

func publishes(p *pki, c command) (any, error) {
	sessions := make([]*session, c.Clients)
	defer func() {
		for _, s := range sessions {
			if s != nil {
				s.end()
			}
		}
	}()
	for n := range sessions {
		s, err := connect(p, c.Address, n)
		if err != nil {
			return nil, fmt.Errorf("before publishing: %w", err)
		}
		sessions[n] = s
	}
	deadline := time.Now().Add(time.Duration(c.Seconds) * time.Second)
	payload := make([]byte, c.Bytes)
	for i := range payload {
		payload[i] = "0123456789abcdef"[i%16]
	}
	var next atomic.Int64
	more := func() bool { return next.Add(1) <= int64(c.Count) && time.Now().Before(deadline) }
	t := begin()
	var hands sync.WaitGroup
	for _, s := range sessions {
		hands.Go(func() { t.add(s.drive(c.Window, payload, more)) })
	}
	hands.Wait()
	return t.result(), nil
}

// Keeps `window` messages on their way while there are more, and waits for the last acknowledgement.
func (s *session) drive(window int, payload []byte, more func() bool) ([]time.Duration, error) {
	var latencies []time.Duration
	sent := map[uint16]time.Time{}
	var number uint16
	say := func() {
		number = number%65535 + 1
		sent[number] = time.Now()
		s.publish(number, payload)
	}
	for range window {
		if more() {
			say()
		}
	}
	for len(sent) > 0 {
		if len(s.out) > 0 {
			if err := s.flush(); err != nil {
				return latencies, err
			}
		}
		for first := true; len(sent) > 0 && (first || s.in.Buffered() >= 4); first = false {
			acknowledged, err := s.puback()
			if err != nil {
				return latencies, err
			}
			since, known := sent[acknowledged]
			if !known {
				return latencies, fmt.Errorf("%s: PUBACK of nothing sent, %d", s.id, acknowledged)
			}
			delete(sent, acknowledged)
			latencies = append(latencies, time.Since(since))
			if more() {
				say()
			}
		}
	}
	return latencies, nil
}

func cpuMs() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	ms := func(t syscall.Timeval) float64 { return float64(t.Sec)*1e3 + float64(t.Usec)/1e3 }
	return ms(usage.Utime) + ms(usage.Stime)
}
