// Spicy checks one record's proof (c2sp.org/tlog-proof) with filippo.io/torchwood alone.
//
//	spicy PROOF-FILE VKEY [WITNESS-KEY...]
//
// The record is the proof's extra data; the log and every witness named must have signed.  Prints the record.
package main

import (
	"fmt"
	"os"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func run() ([]byte, error) {
	proof, err := os.ReadFile(os.Args[1])
	if err != nil {
		return nil, err
	}
	log, err := note.NewVerifier(os.Args[2])
	if err != nil {
		return nil, err
	}
	policies := []torchwood.Policy{torchwood.OriginPolicy(log.Name()), torchwood.SingleVerifierPolicy(log)}
	for _, key := range os.Args[3:] {
		witness, err := torchwood.NewCosignatureVerifier(key)
		if err != nil {
			return nil, err
		}
		policies = append(policies, torchwood.SingleVerifierPolicy(witness))
	}
	record, err := torchwood.ProofExtraData(proof)
	if err != nil {
		return nil, err
	}
	return record, torchwood.VerifyProof(torchwood.ThresholdPolicy(len(policies), policies...), tlog.RecordHash(record), proof)
}

func main() {
	record, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "FOUND:", err)
		os.Exit(1)
	}
	os.Stdout.Write(record)
}
