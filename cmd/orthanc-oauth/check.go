package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"orthanc-oauth/internal/config"
)

func newCheckCommand() *cobra.Command {
	var opts checkOptions
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Say whether a configuration is right, and what is in effect",
		Long: `Check reads an orthanc.json, or a file that holds only the DicomWeb.OAuth section,
exactly as the plugin and "serve" do. FILE may be - for standard input, or a
folder of files, which are merged as Orthanc merges them.

Standard output gets the effective configuration: canonical keys, defaults filled
in, secrets redacted. Standard error gets every warning and every error, each
with its key, its server, what was found and what is allowed. Secret files that
the configuration names are read; nothing is sent anywhere. Run it as the user
that Orthanc runs as to see that this one can read them.

${VAR} is replaced from this shell's environment.

Exit code: 0 if right, warnings included; 1 if there are errors.`,
		Example: `  orthanc-oauth check /etc/orthanc/orthanc.json

  # What Debian's Orthanc reads: all *.json files of a folder
  orthanc-oauth check /etc/orthanc

  # Errors and warnings only
  orthanc-oauth check /etc/orthanc > /dev/null

  # For a sidecar: its credentials and addresses are demanded as well
  orthanc-oauth check --sidecar sidecar.json

  # In a pipeline
  orthanc-oauth check --json orthanc.json | jq -r '.errors[].text'`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"json"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := readInput(cmd, args[0])
			if err != nil {
				return err
			}
			return opts.check(cmd, args[0], raw)
		},
	}
	cmd.Flags().BoolVar(&opts.sidecar, "sidecar", false, "demand what \"serve\" needs as well")
	cmd.Flags().BoolVar(&opts.json, "json", false, "print one JSON object, errors and warnings included")
	return cmd
}

// maxInput is more than any configuration that is accepted, and keeps an endless
// pipe from filling the memory.
const maxInput = 16 << 20

func readInput(cmd *cobra.Command, name string) (raw []byte, err error) {
	if name == "-" {
		raw, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxInput))
	} else {
		raw, err = config.Read(name)
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return raw, nil
}

type checkOptions struct{ sidecar, json bool }

func (o checkOptions) check(cmd *cobra.Command, name string, raw []byte) error {
	conf, err := config.Parse(raw, config.Options{Sidecar: o.sidecar, Expand: true})
	problems, isAboutFile := errors.AsType[config.Errors](err)
	if err != nil && !isAboutFile {
		return err
	}
	if o.json {
		err = writeJSON(cmd.OutOrStdout(), newCheckReport(name, conf, problems))
	} else {
		err = printCheck(cmd, name, conf, problems)
	}
	if err == nil && len(problems) > 0 {
		return errReported
	}
	return err
}

// checkReport is what check --json prints.
type checkReport struct {
	File          string    `json:"file"`
	OK            bool      `json:"ok"`
	Errors        []finding `json:"errors"`
	Warnings      []finding `json:"warnings"`
	Configuration any       `json:"configuration,omitempty"` // absent if there are errors
}

// finding is an error or a warning, in parts and as the line that an operator
// reads.
type finding struct {
	Code    config.Code `json:"code,omitempty"`
	Path    string      `json:"path,omitempty"`
	Server  string      `json:"server,omitempty"`
	Key     string      `json:"key,omitempty"`
	Message string      `json:"message"`
	Text    string      `json:"text"`
}

func newCheckReport(name string, conf *config.Config, problems config.Errors) checkReport {
	r := checkReport{
		File: name, OK: len(problems) == 0, Configuration: conf.Redacted(),
		Errors: make([]finding, 0, len(problems)), Warnings: make([]finding, 0, len(conf.Warnings)),
	}
	for _, p := range problems {
		r.Errors = append(r.Errors, finding{p.Code, p.Path, p.Server, p.Key, p.Message, p.Error()})
	}
	for _, w := range conf.Warnings {
		r.Warnings = append(r.Warnings, finding{"", w.Path, w.Server, w.Key, w.Message, w.String()})
	}
	return r
}

func printCheck(cmd *cobra.Command, name string, conf *config.Config, problems config.Errors) error {
	for _, w := range conf.Warnings {
		cmd.PrintErrf("warning: %v\n", w)
	}
	if len(problems) > 0 {
		printErrors(cmd, problems)
		cmd.PrintErrf("%s: %s\n", name, count(len(problems), "error"))
		return nil
	}
	if err := writeJSON(cmd.OutOrStdout(), conf.Redacted()); err != nil {
		return err
	}
	cmd.PrintErrf("%s: ok, %s, %s\n", name, count(len(conf.Servers), "server"), count(len(conf.Warnings), "warning"))
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// writeJSON writes a value for people and programs alike.
func writeJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(value)
}

func newSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration",
		Long: `Schema prints the JSON Schema (draft 2020-12) of the DicomWeb.OAuth section, for
editors that complete and check while one types. It knows canonical keys only;
"check" accepts older spellings too.`,
		Example: `  orthanc-oauth schema > dicomweb-oauth.schema.json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Schema())
			return err
		},
	}
}
