// Checks a static tlog-tiles folder twice, with libraries that share nothing with the program under test. Here with the Go
// team's own (golang.org/x/mod/sumdb): the note's signature, the checkpoint, every entry's hash, the tree's root from the
// entries, proofs of inclusion and consistency read through authenticated tiles, and the tlog-proof files beside the log.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: ledger FOLDER VKEY [VKEY...]")
		os.Exit(2)
	}
	report, err := check(os.Args[1], os.Args[2])
	fail("sumdb", err)
	fmt.Println(report)
	report, err = transparency(os.Args[1], os.Args[2:])
	fail("transparency-dev", err)
	fmt.Println(report)
}

func fail(who string, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, who, "refuses:", err)
		os.Exit(1)
	}
}

type checkpoint struct {
	origin string
	tree   tlog.Tree
}

func open(msg []byte, vkey string) (checkpoint, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return checkpoint{}, err
	}
	opened, err := note.Open(msg, note.VerifierList(verifier))
	if err != nil {
		return checkpoint{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] != verifier.Name() {
		return checkpoint{}, fmt.Errorf("checkpoint text %q", opened.Text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return checkpoint{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return checkpoint{}, err
	}
	return checkpoint{lines[0], tlog.Tree{N: size, Hash: root}}, nil
}

// folder reads tiles of height 8 by their C2SP paths, which are Go's without the height.
type folder string

func (f folder) Height() int                                { return 8 }
func (f folder) SaveTiles(tiles []tlog.Tile, data [][]byte) {}
func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		bytes, err := os.ReadFile(filepath.Join(string(f), path))
		if err != nil {
			return nil, err
		}
		data[i] = bytes
	}
	return data, nil
}

func entries(f folder, size int64) ([][]byte, error) {
	var all [][]byte
	for n := int64(0); n*256 < size; n++ {
		width := min(256, size-n*256)
		tile := tlog.Tile{H: 8, L: -1, N: n, W: int(width)}
		path := strings.Replace(tile.Path(), "tile/8/data/", "tile/entries/", 1)
		bundle, err := os.ReadFile(filepath.Join(string(f), path))
		if err != nil {
			return nil, err
		}
		for ; len(bundle) > 0; width-- {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				return nil, fmt.Errorf("%s is cut", path)
			}
			length := int(binary.BigEndian.Uint16(bundle))
			all = append(all, bundle[2:2+length])
			bundle = bundle[2+length:]
		}
		if width != 0 {
			return nil, fmt.Errorf("%s holds another number of entries", path)
		}
	}
	return all, nil
}

func check(dir, vkey string) (string, error) {
	msg, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return "", err
	}
	cp, err := open(msg, vkey)
	if err != nil {
		return "", err
	}
	all, err := entries(folder(dir), cp.tree.N)
	if err != nil {
		return "", err
	}

	// The tree from the entries alone.
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			hashes[i] = stored[index]
		}
		return hashes, nil
	})
	for i, entry := range all {
		hashes, err := tlog.StoredHashes(int64(i), entry, reader)
		if err != nil {
			return "", err
		}
		stored = append(stored, hashes...)
	}
	root, err := tlog.TreeHash(cp.tree.N, reader)
	if err != nil {
		return "", err
	}
	if cp.tree.N > 0 && root != cp.tree.Hash {
		return "", fmt.Errorf("the entries have root %v, signed is %v", root, cp.tree.Hash)
	}
	if cp.tree.N == 0 && cp.tree.Hash.String() != "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" {
		return "", fmt.Errorf("the empty tree's root is %v", cp.tree.Hash)
	}

	// Proofs read through the tiles, which the reader authenticates against the root.
	proofs := 0
	if cp.tree.N > 0 {
		tiles := tlog.TileHashReader(cp.tree, folder(dir))
		step := max(1, cp.tree.N/97)
		for i := int64(0); i < cp.tree.N; i += step {
			proof, err := tlog.ProveRecord(cp.tree.N, i, tiles)
			if err != nil {
				return "", err
			}
			if err := tlog.CheckRecord(proof, cp.tree.N, cp.tree.Hash, i, tlog.RecordHash(all[i])); err != nil {
				return "", err
			}
			old, err := tlog.TreeHash(i+1, reader)
			if err != nil {
				return "", err
			}
			consistency, err := tlog.ProveTree(cp.tree.N, i+1, tiles)
			if err != nil {
				return "", err
			}
			if err := tlog.CheckTree(consistency, cp.tree.N, cp.tree.Hash, i+1, old); err != nil {
				return "", err
			}
			proofs += 2
		}
	}

	files, err := filepath.Glob(filepath.Join(dir, "*.tlog-proof"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		if err := checkProof(file, vkey, all); err != nil {
			return "", fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return fmt.Sprintf("%s %d %v proofs=%d files=%d", cp.origin, cp.tree.N, cp.tree.Hash, proofs, len(files)), nil
}

func checkProof(file, vkey string, all [][]byte) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	head, msg, found := bytes.Cut(text, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return fmt.Errorf("not a tlog-proof")
	}
	lines = lines[1:]
	if strings.HasPrefix(lines[0], "extra ") {
		lines = lines[1:]
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "index "), 10, 64)
	if err != nil {
		return err
	}
	var proof tlog.RecordProof
	for _, line := range lines[1:] {
		raw, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(raw) != tlog.HashSize {
			return fmt.Errorf("hash %q", line)
		}
		proof = append(proof, tlog.Hash(raw))
	}
	cp, err := open(msg, vkey)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(proof, cp.tree.N, cp.tree.Hash, index, tlog.RecordHash(all[index]))
}
