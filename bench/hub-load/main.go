// Command hub-load is the load generator of the hub's benchmark: MQTT 3.1.1 devices over mutual TLS.
//
// It reads one JSON command a line from standard input and answers each with one JSON line, so that the processes under
// load can be measured between commands. It ends with its input, and by itself after its lifetime.
//
//	{"do":"pki","dir":DIR}              makes CAs, server and operator certificates; writes them as PEM files
//	{"do":"verify","code":CODE}         a certificate for CODE, signed by the devices' root
//	{"do":"connect",...}                connects and disconnects, one after the other on each hand
//	{"do":"publish",...}                QoS 1 publishes over connections that stay
//	{"do":"hold",...}, {"do":"release"} devices that are connected at once
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

const lifetime = 30 * time.Minute

type command struct {
	Do      string `json:"do"`
	Dir     string `json:"dir"`
	Code    string `json:"code"`
	Address string `json:"address"`
	// how many connects, publishes or devices
	Count int `json:"count"`
	// connects under way at once
	Hands int `json:"hands"`
	// publishing: connections, messages on their way on each, bytes of a message
	Clients int `json:"clients"`
	Window  int `json:"window"`
	Bytes   int `json:"bytes"`
	// no longer than this
	Seconds int `json:"seconds"`
}

func main() {
	time.AfterFunc(lifetime, func() {
		fmt.Fprintln(os.Stderr, "hub-load: its lifetime is over")
		os.Exit(1)
	})
	var all pki
	var held []*session
	in := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var c command
		var answer any
		err := json.Unmarshal(in.Bytes(), &c)
		if err == nil {
			switch c.Do {
			case "pki":
				err = all.make(c.Dir)
				answer = struct{}{}
			case "verify":
				answer, err = all.verification(c.Code)
			case "connect":
				answer, err = connects(&all, c)
			case "publish":
				answer, err = publishes(&all, c)
			case "hold":
				held, answer, err = hold(&all, c)
			case "release":
				for _, s := range held {
					s.end()
				}
				held, answer = nil, struct{}{}
			default:
				err = fmt.Errorf("no such command: %q", c.Do)
			}
		}
		if err != nil {
			answer = map[string]string{"error": err.Error()}
		}
		if err := out.Encode(answer); err != nil {
			os.Exit(1)
		}
	}
}
