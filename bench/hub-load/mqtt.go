package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// One device's connection, MQTT 3.1.1 as IoT Hub has it.
type session struct {
	conn *tls.Conn
	in   *bufio.Reader
	out  []byte
	id   string
}

const (
	connectPacket    = 0x10
	connackPacket    = 0x20
	publishQos1      = 0x32
	pubackPacket     = 0x40
	disconnectPacket = 0xe0
	stepTimeout      = 60 * time.Second
)

// TCP, TLS, CONNECT and its CONNACK. Nothing is resumed: there is no session cache.
func connect(p *pki, address string, n int) (*session, error) {
	certificate, err := p.device(n)
	if err != nil {
		return nil, err
	}
	tcp, err := net.DialTimeout("tcp", address, stepTimeout)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(tcp, &tls.Config{
		RootCAs: p.roots, ServerName: "localhost", MinVersion: tls.VersionTLS12,
		// What devices' TLS libraries offer, and the same work for servers with OpenSSL 3.0 and 3.5.
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
		// Whatever CAs the server names: a device has one certificate.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil },
	})
	s := &session{conn: conn, in: bufio.NewReaderSize(conn, 512), id: deviceID(n)}
	if err := s.open(); err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *session) open() error {
	if err := s.conn.SetDeadline(time.Now().Add(stepTimeout)); err != nil {
		return err
	}
	body := text(nil, "MQTT")
	// level 4, a user name, the session kept as the public SDK has it, 10 minutes of keep-alive
	body = append(body, 4, 0x80, 600>>8, 600&0xff)
	body = text(body, s.id)
	body = text(body, "localhost/"+s.id+"/?api-version=2021-04-12")
	if _, err := s.conn.Write(packet(nil, connectPacket, body)); err != nil {
		return err
	}
	var answer [4]byte
	if _, err := io.ReadFull(s.in, answer[:]); err != nil {
		return err
	}
	if answer[0] != connackPacket || answer[3] != 0 {
		return fmt.Errorf("%s: CONNACK %x", s.id, answer)
	}
	return nil
}

// One message on its way more; `flush` sends what was gathered.
func (s *session) publish(number uint16, payload []byte) {
	body := text(nil, "devices/"+s.id+"/messages/events/")
	body = binary.BigEndian.AppendUint16(body, number)
	s.out = packet(s.out, publishQos1, append(body, payload...))
}

func (s *session) flush() error {
	if err := s.conn.SetDeadline(time.Now().Add(stepTimeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(s.out)
	s.out = s.out[:0]
	return err
}

func (s *session) puback() (uint16, error) {
	var answer [4]byte
	if _, err := io.ReadFull(s.in, answer[:]); err != nil {
		return 0, err
	}
	if answer[0] != pubackPacket || answer[1] != 2 {
		return 0, fmt.Errorf("%s: no PUBACK but %x", s.id, answer)
	}
	return binary.BigEndian.Uint16(answer[2:]), nil
}

func (s *session) end() {
	_ = s.conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = s.conn.Write([]byte{disconnectPacket, 0})
	s.conn.Close()
}

func packet(to []byte, kind byte, body []byte) []byte {
	to = append(to, kind)
	length := len(body)
	for length > 0x7f {
		to = append(to, byte(length)|0x80)
		length >>= 7
	}
	return append(append(to, byte(length)), body...)
}

func text(to []byte, value string) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(value))), value...)
}
