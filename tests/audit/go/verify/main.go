// Verify reads a log as c2sp.org/tlog-tiles serves it and checks it with golang.org/x/mod/sumdb alone: the checkpoint's signature,
// the inclusion of random records, and that the log continues an earlier checkpoint.  Nothing here knows Bailiwick.
//
//	verify PREFIX VKEY RECORDS [OLD-CHECKPOINT-FILE]
//
// A bearer token for the requests is read from TOKEN; verifier keys of witnesses (c2sp.org/tlog-cosignature), separated by spaces, from
// WITNESSES: each of them must have cosigned the checkpoint, as filippo.io/torchwood verifies it.  Prints one JSON object; exit 1 with the reason where anything does not fit.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type fetcher struct {
	prefix, token string
	fetched       int
}

func (f *fetcher) get(path string) ([]byte, error) {
	request, err := http.NewRequest("GET", f.prefix+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	if f.token != "" {
		request.Header.Set("Authorization", "Bearer "+f.token)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != 200 {
		return nil, fmt.Errorf("%s: %s", path, answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, 64<<20))
}

// sumdb writes tile/8/<level>/…, tlog-tiles the same without the height.
func (f *fetcher) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		data, err := f.get("tile/" + strings.TrimPrefix(tile.Path(), "tile/8/"))
		if err != nil {
			return nil, err
		}
		f.fetched++
		all = append(all, data)
	}
	return all, nil
}
func (f *fetcher) Height() int                     { return height }
func (f *fetcher) SaveTiles([]tlog.Tile, [][]byte) {}

func open(text []byte, verifier note.Verifier) (tlog.Tree, error) {
	signed, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(signed.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, errors.New("not the three lines of this log's checkpoint")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, errors.New("not a root")
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(root)}, nil
}

func (f *fetcher) entry(tree tlog.Tree, index int64) ([]byte, error) {
	tile := tlog.Tile{H: height, L: 0, N: index / 256, W: 256}
	if (tile.N+1)*256 > tree.N {
		tile.W = int(tree.N % 256)
	}
	data, err := f.get("tile/entries/" + strings.TrimPrefix(tile.Path(), "tile/8/0/"))
	if err != nil {
		return nil, err
	}
	for at := int64(0); ; at++ {
		if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
			return nil, errors.New("the bundle is cut off")
		}
		length := int(binary.BigEndian.Uint16(data))
		if at == index%256 {
			return data[2 : 2+length], nil
		}
		data = data[2+length:]
	}
}

func cosigned(text []byte, log note.Verifier, keys []string) error {
	known := []note.Verifier{log}
	for _, key := range keys {
		witness, err := torchwood.NewCosignatureVerifier(key)
		if err != nil {
			return err
		}
		known = append(known, witness)
	}
	signed, err := note.Open(text, note.VerifierList(known...))
	if err != nil {
		return err
	}
	if len(signed.Sigs) != len(known) {
		return fmt.Errorf("%d of %d witnesses cosigned", len(signed.Sigs)-1, len(keys))
	}
	return nil
}

func run() (map[string]any, error) {
	verifier, err := note.NewVerifier(os.Args[2])
	if err != nil {
		return nil, err
	}
	records, err := strconv.Atoi(os.Args[3])
	if err != nil {
		return nil, err
	}
	from := &fetcher{prefix: os.Args[1], token: os.Getenv("TOKEN")}
	text, err := from.get("checkpoint")
	if err != nil {
		return nil, err
	}
	tree, err := open(text, verifier)
	if err != nil {
		return nil, err
	}
	witnesses := strings.Fields(os.Getenv("WITNESSES"))
	if err := cosigned(text, verifier, witnesses); err != nil {
		return nil, err
	}
	hashes := tlog.TileHashReader(tree, from) // authenticates every tile against the root
	for range records {
		index := rand.Int63n(tree.N)
		data, err := from.entry(tree, index)
		if err != nil {
			return nil, err
		}
		proof, err := tlog.ProveRecord(tree.N, index, hashes)
		if err != nil {
			return nil, err
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(data)); err != nil {
			return nil, fmt.Errorf("record %d: %w", index, err)
		}
	}
	found := map[string]any{"size": tree.N, "records": records, "tiles": from.fetched, "old": int64(0), "witnesses": len(witnesses)}
	if len(os.Args) > 4 {
		kept, err := os.ReadFile(os.Args[4])
		if err != nil {
			return nil, err
		}
		old, err := open(kept, verifier)
		if err != nil {
			return nil, err
		}
		proof, err := tlog.ProveTree(tree.N, old.N, hashes)
		if err != nil {
			return nil, err
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash); err != nil {
			return nil, fmt.Errorf("the log does not continue the checkpoint of %d records: %w", old.N, err)
		}
		found["old"] = old.N
	}
	return found, nil
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "verify PREFIX VKEY RECORDS [OLD-CHECKPOINT-FILE]")
		os.Exit(2)
	}
	found, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "FOUND:", err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(found)
}
