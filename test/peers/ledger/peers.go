package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
)

// transparency checks the same folder with the transparency-dev project's libraries: the note by formats, under every key
// given (Ed25519, P-256, cosignatures), the log's tiles and bundles by tessera's fsck, the proofs that were written beside
// the log by merkle.
func transparency(dir string, vkeys []string) (string, error) {
	var verifiers []note.Verifier
	for _, vkey := range vkeys {
		verifier, err := fnote.NewVerifier(vkey)
		if err != nil {
			return "", err
		}
		verifiers = append(verifiers, verifier)
	}
	own, others := verifiers[0], verifiers[1:]
	msg, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return "", err
	}
	cp, rest, opened, err := log.ParseCheckpoint(msg, own.Name(), own, others...)
	if err != nil {
		return "", fmt.Errorf("formats: %w", err)
	}
	if len(rest) != 0 {
		return "", fmt.Errorf("formats: the checkpoint has extension lines")
	}
	if len(opened.Sigs) != len(verifiers) {
		return "", fmt.Errorf("formats: %d of %d signatures", len(opened.Sigs), len(verifiers))
	}

	hash := func(bundle []byte) ([][]byte, error) {
		entries := api.EntryBundle{}
		if err := entries.UnmarshalText(bundle); err != nil {
			return nil, err
		}
		var hashes [][]byte
		for _, entry := range entries.Entries {
			hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(entry))
		}
		return hashes, nil
	}
	fetcher := client.FileFetcher{Root: dir}
	if err := fsck.New(own.Name(), own, fetcher, hash, fsck.Opts{N: 2}).Check(context.Background()); err != nil {
		return "", fmt.Errorf("fsck: %w", err)
	}

	included, err := inclusions(dir, cp)
	if err != nil {
		return "", fmt.Errorf("merkle: %w", err)
	}
	continued, err := consistencies(dir, cp)
	if err != nil {
		return "", fmt.Errorf("merkle: %w", err)
	}
	return fmt.Sprintf("signatures=%d inclusions=%d consistencies=%d", len(opened.Sigs), included, continued), nil
}

func lines(file string) ([][]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var hashes [][]byte
	for _, line := range strings.Fields(string(text)) {
		hash, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, hash)
	}
	return hashes, nil
}

// inclusions reads inclusion/<index>: the leaf's hash, then the path, a base64 hash a line.
func inclusions(dir string, cp *log.Checkpoint) (int, error) {
	files, err := filepath.Glob(filepath.Join(dir, "inclusion", "*"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		index, err := strconv.ParseUint(filepath.Base(file), 10, 64)
		if err != nil {
			return 0, err
		}
		hashes, err := lines(file)
		if err != nil {
			return 0, err
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, cp.Size, hashes[0], hashes[1:], cp.Hash); err != nil {
			return 0, fmt.Errorf("inclusion of %d: %w", index, err)
		}
	}
	return len(files), nil
}

// consistencies reads consistency/<old size>: the old root, then the proof.
func consistencies(dir string, cp *log.Checkpoint) (int, error) {
	files, err := filepath.Glob(filepath.Join(dir, "consistency", "*"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		size, err := strconv.ParseUint(filepath.Base(file), 10, 64)
		if err != nil {
			return 0, err
		}
		hashes, err := lines(file)
		if err != nil {
			return 0, err
		}
		if size == 0 {
			// Every tree continues the empty one; the library refuses to say so.
			if !bytes.Equal(hashes[0], rfc6962.DefaultHasher.EmptyRoot()) || len(hashes) != 1 {
				return 0, fmt.Errorf("consistency with the empty tree")
			}
			continue
		}
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, size, cp.Size, hashes[1:], hashes[0], cp.Hash); err != nil {
			return 0, fmt.Errorf("consistency with %d: %w", size, err)
		}
	}
	return len(files), nil
}
