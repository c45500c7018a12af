package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"orthanc-oauth/internal/proxy"
)

func newHashPasswordCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hash-password NAME",
		Short: "Make a line for a sidecar's UsersFile",
		Long: `Hash-password reads a password from the first line of standard input and prints a
line for UsersFile: the name and a hash, from which the password cannot be read.
The password stays out of the process list and of the shell's history.`,
		Example: `  openssl rand -hex 16 > orthanc.password
  orthanc-oauth hash-password orthanc < orthanc.password >> users`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			lines := bufio.NewScanner(cmd.InOrStdin())
			if !lines.Scan() || strings.TrimSpace(lines.Text()) == "" {
				return errors.Join(errors.New("standard input holds no password"), lines.Err())
			}
			if args[0] == "" || strings.ContainsAny(args[0], ":\r\n") {
				return fmt.Errorf("name %q: it may hold no colon and no line end", args[0])
			}
			hash, err := proxy.HashPassword(lines.Text())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s:%s\n", args[0], hash)
			return err
		},
	}
}
