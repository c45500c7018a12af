package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"orthanc-oauth/internal/demo"
	"orthanc-oauth/internal/idptest"
)

func newDemoCommand() *cobra.Command {
	var opts demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch a fleet share one token: nothing to install, nothing left behind",
		Long: `Demo starts a fleet on loopback in a temporary folder, sends studies through it,
and shows the identity provider's own count of token requests: while instances
join, while the leader is killed, while the token is renewed, and after the
remote has revoked it. Every step is checked; the exit code is 0 only if
everything shown was true. It takes about half a minute.

Without --orthanc the instances are sidecars of this program and the remote is a
small DICOMweb server inside of it: no package and no root are needed, except
that --backend redis wants a redis-server to start. With --orthanc they are real
Orthancs of Debian's packages, which "make demo" installs.`,
		Example: `  orthanc-oauth demo
  orthanc-oauth demo --backend memory
  make demo BACKEND=redis`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signalled(cmd.Context())
			defer stop()
			plugin, err := filepath.Abs(opts.Plugin) // the Orthancs run in folders of their own
			if err != nil {
				return err
			}
			opts.Plugin, opts.Out = plugin, cmd.OutOrStdout()
			return demo.Run(ctx, opts)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Backend, "backend", "gossip", "gossip, redis or memory")
	f.BoolVar(&opts.Orthanc, "orthanc", false, "use real Orthancs")
	f.StringVar(&opts.Plugin, "plugin", "build/libOrthancDicomWebOAuth.so", "the plugin, with --orthanc")
	f.BoolVar(&opts.JSON, "json", false, "print one JSON object a line")
	f.BoolVar(&opts.Keep, "keep", false, "leave the folder with logs and configurations behind")
	return cmd
}

// newIdPCommand returns the scripted identity provider of the tests as a
// process. It is hidden: it hands out tokens to whoever knows its test secret.
func newIdPCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "idp",
		Short:              "Run the scripted identity provider of the tests",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signalled(cmd.Context())
			defer stop()
			return idptest.Command(ctx, args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

// signalled returns a context that ends with SIGINT and SIGTERM, and with the
// terminal, so that nothing is left behind then either.
func signalled(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
}
