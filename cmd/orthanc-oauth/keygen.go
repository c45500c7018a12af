package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// keyBytes is what SecretKey and EncryptionKey need: as much as AES-256.
const keyBytes = 32

func newKeygenCommand() *cobra.Command {
	var output string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key for Gossip.SecretKey or EncryptionKey",
		Long: `Keygen prints 32 random bytes in base64: a value for Gossip.SecretKey or
EncryptionKey, or the content of the file that SecretKeyFile or
EncryptionKeyFile names. Every instance of a fleet gets the same one. The user
that Orthanc runs as must be able to read the file, and nobody else.

To replace a cluster's key without a failed request, see "orthanc-oauth keyring".`,
		Example: `  orthanc-oauth keygen

  # Into a new file that only its owner can read
  orthanc-oauth keygen --output /etc/orthanc-oauth/gossip.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key := newKey()
			if output != "" {
				return writeKeyFile(output, key)
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), map[string]string{"key": key})
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), key)
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this new file, with mode 0600")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as a JSON object")
	cmd.MarkFlagsMutuallyExclusive("output", "json")
	return cmd
}

func newKey() string {
	key := make([]byte, keyBytes)
	rand.Read(key)
	return base64.StdEncoding.EncodeToString(key)
}

// writeKeyFile refuses a file that is there: overwriting the key of a running
// fleet would part the instance from it.
func writeKeyFile(name, key string) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	_, err = io.WriteString(f, key+"\n")
	return err
}
