package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// Devices under an intermediate under a root, and the server's and operator's certificates under a CA of their own. All
// devices have one key: what is measured is the server, not the making of keys.
type pki struct {
	infra, root, intermediate authority
	deviceKey                 *ecdsa.PrivateKey
	mu                        sync.Mutex
	devices                   map[int]*tls.Certificate
	roots                     *x509.CertPool
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func (p *pki) make(dir string) (err error) {
	p.devices = map[int]*tls.Certificate{}
	if p.deviceKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	if p.infra, err = newAuthority("bench infrastructure", nil); err != nil {
		return err
	}
	if p.root, err = newAuthority("bench root", nil); err != nil {
		return err
	}
	if p.intermediate, err = newAuthority("bench intermediate", &p.root); err != nil {
		return err
	}
	p.roots = x509.NewCertPool()
	p.roots.AddCert(p.infra.certificate)
	for name, one := range map[string]*authority{"ca": &p.infra, "root": &p.root} {
		if err := writePem(dir, name+".pem", "CERTIFICATE", one.certificate.Raw); err != nil {
			return err
		}
	}
	for name, subject := range map[string]pkix.Name{
		"server":   {CommonName: "server"},
		"operator": {CommonName: "bench", OrganizationalUnit: []string{"operator"}},
	} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		template := leaf(subject)
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if name == "server" {
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			template.DNSNames = []string{"localhost"}
			template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		}
		der, err := p.infra.sign(template, key)
		if err != nil {
			return err
		}
		encoded, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		if err := writePem(dir, name+".pem", "CERTIFICATE", der); err != nil {
			return err
		}
		if err := writePem(dir, name+".key", "PRIVATE KEY", encoded); err != nil {
			return err
		}
	}
	return nil
}

// What proves to the hub that the root's key is ours.
func (p *pki) verification(code string) (any, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := p.root.sign(leaf(pkix.Name{CommonName: code}), key)
	if err != nil {
		return nil, err
	}
	return map[string]string{"pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}, nil
}

func deviceID(n int) string { return "bench-" + strconv.Itoa(n) }

// The n-th device's, made when it is first asked for.
func (p *pki) device(n int) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.devices[n]; known != nil {
		return known, nil
	}
	template := leaf(pkix.Name{CommonName: deviceID(n)})
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := p.intermediate.sign(template, p.deviceKey)
	if err != nil {
		return nil, err
	}
	made := &tls.Certificate{Certificate: [][]byte{der, p.intermediate.certificate.Raw}, PrivateKey: p.deviceKey}
	p.devices[n] = made
	return made, nil
}

func newAuthority(name string, parent *authority) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template := leaf(pkix.Name{CommonName: name})
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	signer := parent
	if signer == nil {
		signer = &authority{certificate: template, key: key}
	}
	der, err := signer.sign(template, key)
	if err != nil {
		return authority{}, err
	}
	certificate, err := x509.ParseCertificate(der)
	return authority{certificate, key}, err
}

func (a *authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
}

func leaf(subject pkix.Name) *x509.Certificate {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial)
	serial[0] = serial[0]&0x3f | 0x40
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               subject,
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

func writePem(dir, name, kind string, der []byte) error {
	return os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
