// Command witness judges our witnessing with other people's code:
//
//	witness verify CHECKPOINT POLICY     torchwood holds a cosigned checkpoint against a tlog-policy
//	witness log DIR SKEY POLICY N        a Tessera log whose every checkpoint the policy's witnesses cosign first
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"filippo.io/torchwood"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 4 && os.Args[1] == "verify":
		err = verify(os.Args[2], os.Args[3])
	case len(os.Args) == 6 && os.Args[1] == "log":
		err = grow(os.Args[2], os.Args[3], os.Args[4], os.Args[5])
	default:
		err = fmt.Errorf("see the source for its arguments")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func verify(checkpointFile, policyFile string) error {
	checkpoint, err := os.ReadFile(checkpointFile)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(policyFile)
	if err != nil {
		return err
	}
	policy, err := torchwood.ParsePolicy(text)
	if err != nil {
		return err
	}
	c, n, err := torchwood.VerifyCheckpoint(checkpoint, policy)
	if err != nil {
		return err
	}
	fmt.Printf("%s %d", c.Origin, c.N)
	for _, sig := range n.Sigs {
		fmt.Printf(" %s", sig.Name)
		if t, err := torchwood.CosignatureTimestamp(sig); err == nil {
			fmt.Printf("@%d", t)
		}
	}
	fmt.Println()
	return nil
}

// grow appends count entries, each waiting for its published, cosigned checkpoint.
func grow(dir, skeyFile, policyFile, count string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	skey, err := os.ReadFile(skeyFile)
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(string(skey))
	if err != nil {
		return err
	}
	policy, err := os.ReadFile(policyFile)
	if err != nil {
		return err
	}
	witnesses, err := tessera.NewWitnessGroupFromPolicy(policy)
	if err != nil {
		return err
	}
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return err
	}
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(200*time.Millisecond).
		WithBatching(16, 20*time.Millisecond).
		WithWitnesses(witnesses, &tessera.WitnessOptions{Timeout: 5 * time.Second})
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, options)
	if err != nil {
		return err
	}
	awaiter := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 50*time.Millisecond)
	var checkpoint []byte
	for i := range n {
		entry := tessera.NewEntry([]byte(fmt.Sprintf("entry %d of %s", i, time.Now())))
		if _, checkpoint, err = awaiter.Await(ctx, appender.Add(ctx, entry)); err != nil {
			return err
		}
	}
	if err := shutdown(ctx); err != nil {
		return err
	}
	_, err = os.Stdout.Write(checkpoint)
	return err
}
