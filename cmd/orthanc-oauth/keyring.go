package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"orthanc-oauth/cluster"
	"orthanc-oauth/internal/config"
)

// maxRing is how many secrets a cluster accepts at once.
const maxRing = 3

func newKeyringCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keyring",
		Short: "Replace a cluster's secret key without a failed request",
		Long: `Keyring edits a SecretKeyFile: up to three keys, one a line, of which the first is
used and all are trusted. Running instances read the file again within seconds.

A key is replaced in three steps, each on all instances before the next:
add the new one, use it, remove the old one. After each step compare
"keyring show" with the fingerprints that the /dicomweb-oauth/cluster route of
every instance shows.`,
		Example: `  orthanc-oauth keygen --output new.key
  orthanc-oauth keyring add gossip.key new.key      # everywhere
  orthanc-oauth keyring use gossip.key 5f0c3a1e     # everywhere
  orthanc-oauth keyring remove gossip.key 90b1d2c4  # everywhere`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().String("cluster-name", "default", "Gossip.ClusterName, which the fingerprints depend on")
	cmd.AddCommand(
		keyringStep("show FILE", "Print the fingerprints of the ring, the one in use first", 1, func(r *ring, _ []string) error { return nil }),
		keyringStep("add FILE NEWKEYFILE", "Trust another key", 2, (*ring).add),
		keyringStep("use FILE FINGERPRINT", "Make a key of the ring the one in use", 2, (*ring).use),
		keyringStep("remove FILE FINGERPRINT", "Trust a key no longer", 2, (*ring).remove),
	)
	return cmd
}

// keyringStep returns a command that changes a ring and prints what became of it.
func keyringStep(use, short string, args int, change func(r *ring, args []string) error) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     use,
		Short:   short,
		Example: "  orthanc-oauth keyring " + strings.NewReplacer("NEWKEYFILE", "new.key", "FINGERPRINT", "5f0c3a1e", "FILE", "gossip.key").Replace(use),
		Args:    cobra.ExactArgs(args),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := cmd.Flags().GetString("cluster-name")
			if err != nil {
				return err
			}
			r, err := readRing(args[0], name)
			if err != nil {
				return err
			}
			before := strings.Join(r.lines, "\n")
			if err := change(r, args[1:]); err != nil {
				return err
			}
			if strings.Join(r.lines, "\n") != before {
				if err := r.write(args[0]); err != nil {
					return err
				}
			}
			return r.print(cmd, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of the fingerprints")
	return cmd
}

// ring is the content of a SecretKeyFile.
type ring struct {
	cluster string
	lines   []string // keys in base64, the one in use first
}

func readRing(file, clusterName string) (*ring, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read key ring: %w", err)
	}
	r := &ring{cluster: clusterName}
	for line := range strings.Lines(string(content)) {
		if line = strings.TrimSpace(line); line != "" {
			r.lines = append(r.lines, line)
		}
	}
	if len(r.lines) == 0 || len(r.lines) > maxRing {
		return nil, fmt.Errorf("%s holds %d keys; allowed: 1 to %d", file, len(r.lines), maxRing)
	}
	for i := range r.lines {
		if _, err := r.fingerprint(i); err != nil {
			return nil, fmt.Errorf("%s, key %d: %w", file, i+1, err)
		}
	}
	return r, nil
}

func (r *ring) fingerprint(i int) (string, error) {
	key, err := config.InlineSecret(r.lines[i]).LoadKey()
	if err != nil {
		return "", errors.New("not a key; make one with: orthanc-oauth keygen")
	}
	f, err := cluster.FingerprintOf(key, r.cluster)
	return f.String(), err
}

// find returns the place of the key with a fingerprint.
func (r *ring) find(fingerprint string) (int, error) {
	for i := range r.lines {
		if f, err := r.fingerprint(i); err == nil && f == fingerprint {
			return i, nil
		}
	}
	return 0, fmt.Errorf("no key with the fingerprint %q in the ring; see: orthanc-oauth keyring show", fingerprint)
}

func (r *ring) add(args []string) error {
	other, err := readRing(args[0], r.cluster)
	if err != nil {
		return err
	}
	for i, line := range other.lines {
		f, err := other.fingerprint(i)
		if err != nil {
			return err
		}
		if _, err := r.find(f); err == nil {
			continue // the step was done here before
		}
		r.lines = append(r.lines, line)
	}
	if len(r.lines) > maxRing {
		return fmt.Errorf("the ring would hold %d keys; allowed: at most %d: remove one first", len(r.lines), maxRing)
	}
	return nil
}

func (r *ring) use(args []string) error {
	i, err := r.find(args[0])
	if err != nil {
		return err
	}
	line := r.lines[i]
	r.lines = append([]string{line}, append(r.lines[:i:i], r.lines[i+1:]...)...)
	return nil
}

func (r *ring) remove(args []string) error {
	i, err := r.find(args[0])
	switch {
	case err != nil:
		return err
	case i == 0:
		return errors.New("this key is in use: make another the first one before, with: orthanc-oauth keyring use")
	}
	r.lines = append(r.lines[:i:i], r.lines[i+1:]...)
	return nil
}

// write replaces the file in one step, so that an instance never reads half of
// it, and keeps its mode and owner: the service that reads it is rarely root.
func (r *ring) write(file string) (err error) {
	old, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("write key ring: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".keyring-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write key ring: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write key ring: %w", errors.Join(err, os.Remove(tmp.Name())))
		}
	}()
	_, err = tmp.WriteString(strings.Join(r.lines, "\n") + "\n")
	if err = errors.Join(err, likeOld(tmp, old), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// likeOld gives a file the mode and owner of the one it will replace.
func likeOld(f *os.File, old os.FileInfo) error {
	if owner, ok := old.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(old.Mode().Perm())
}

func (r *ring) print(cmd *cobra.Command, asJSON bool) error {
	prints := make([]string, len(r.lines))
	for i := range r.lines {
		f, err := r.fingerprint(i)
		if err != nil {
			return err
		}
		prints[i] = f
	}
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), prints)
	}
	for i, f := range prints {
		use := "trusted"
		if i == 0 {
			use = "in use"
		}
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", f, use); err != nil {
			return err
		}
	}
	return nil
}
