// Command orthanc-oauth is the operator's side of the product: the sidecar for
// sites that load no plugin, a demonstration, and the commands that check a
// configuration, make keys and ask running instances how they are.
package main

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"orthanc-oauth/internal/config"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // what was asked for did not succeed; standard error says why
	exitUsage  = 2 // the command line is not understood
)

// errReported ends a command that has said everything itself.
var errReported = errors.New("reported")

// run carries out one command line and returns the exit code. Nothing below it
// uses the process's own streams.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root, started := newRootCommand()
	root.SetArgs(append([]string{}, args...)) // cobra takes nil for os.Args
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(context.Background())
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errReported):
		return exitFailed
	case !*started:
		root.PrintErrf("error: %v\nSee: %s --help\n", err, cmd.CommandPath())
		return exitUsage
	}
	printErrors(root, err)
	return exitFailed
}

// printErrors writes one line for each error of a configuration.
func printErrors(cmd *cobra.Command, err error) {
	problems, ok := errors.AsType[config.Errors](err)
	if !ok {
		cmd.PrintErrf("error: %v\n", err)
		return
	}
	for _, problem := range problems {
		cmd.PrintErrf("error: %v\n", problem)
	}
}

// newRootCommand returns the command tree, and whether a command was started:
// an error before that is about the command line.
func newRootCommand() (root *cobra.Command, started *bool) {
	started = new(bool)
	root = &cobra.Command{
		Use:   "orthanc-oauth",
		Short: "OAuth2 tokens for a fleet of Orthancs, asked for once",
		Long: `orthanc-oauth gives every Orthanc of a fleet a valid OAuth2 token for its remote
DICOMweb servers, and makes the fleet ask the identity provider once.

It is usually a plugin inside of Orthanc. This program is the same thing as a
sidecar, and the operator's commands.

Exit codes: 0 done, 1 what was asked for did not succeed, 2 the command line is
not understood.`,
		Example: `  # Is this configuration right, and what is in effect?
  orthanc-oauth check /etc/orthanc/orthanc.json

  # A secret for the gossip cluster
  orthanc-oauth keygen --output gossip.key

  # How are the running instances?
  orthanc-oauth status http://orthanc-1:8042 http://orthanc-2:8042

  # See it work, with nothing installed
  orthanc-oauth demo

  # Completion in this shell
  source <(orthanc-oauth completion bash)`,
		SilenceErrors:    true,
		SilenceUsage:     true,
		PersistentPreRun: func(*cobra.Command, []string) { *started = true },
		RunE:             func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(commands()...)
	return root, started
}

// commands returns the commands in the order of a new operator's day.
func commands() []*cobra.Command {
	return []*cobra.Command{
		newCheckCommand(),
		newSchemaCommand(),
		newKeygenCommand(),
		newKeyringCommand(),
		newServeCommand(),
		newHashPasswordCommand(),
		newStatusCommand(),
		newDemoCommand(),
		newIdPCommand(),
		newVersionCommand(),
	}
}
