package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"orthanc-oauth/internal/proxy"
)

// defaultInstance is where an Orthanc listens unless told otherwise.
const defaultInstance = "http://127.0.0.1:8042"

func newStatusCommand() *cobra.Command {
	var opts statusOptions
	cmd := &cobra.Command{
		Use:   "status [URL...]",
		Short: "Ask running instances how they are",
		Long: `Status asks instances of the fleet, plugins and sidecars alike, for their health,
their members and their tokens' remaining time. A URL is an Orthanc's own
address, or a sidecar's AdminListen; without one, ` + defaultInstance + `.

An Orthanc with users wants --user and --password-file, a sidecar --token-file.

TOKEN is "not asked for yet" until the first request to that server. SOURCE is
where this instance got it: idp (it asked itself), peer, redis, or local.

Exit code: 0 if every instance is healthy or degraded, 1 if one is unhealthy or
does not answer.`,
		Example: `  orthanc-oauth status
  orthanc-oauth status --user admin --password-file pw http://orthanc-1:8042 http://orthanc-2:8042
  orthanc-oauth status --token-file admin.token http://127.0.0.1:8044 --json`,
		RunE: func(cmd *cobra.Command, urls []string) error {
			if len(urls) == 0 {
				urls = []string{defaultInstance}
			}
			return opts.run(cmd, urls)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.user, "user", "", "name of an Orthanc user")
	f.StringVar(&opts.passwordFile, "password-file", "", "file with that user's password")
	f.StringVar(&opts.tokenFile, "token-file", "", "file with a sidecar's admin token")
	f.StringVar(&opts.caFile, "ca-file", "", "PEM file of the CA that signed the instances' certificates")
	f.DurationVar(&opts.timeout, "timeout", 5*time.Second, "how long an instance may take")
	f.BoolVar(&opts.json, "json", false, "print one JSON array")
	cmd.MarkFlagsRequiredTogether("user", "password-file")
	cmd.MarkFlagsMutuallyExclusive("user", "token-file")
	return cmd
}

type statusOptions struct {
	user, passwordFile, tokenFile, caFile string
	timeout                               time.Duration
	json                                  bool
}

// instance is what one instance answered.
type instance struct {
	URL     string               `json:"url"`
	Error   string               `json:"error,omitempty"`
	Status  *proxy.Status        `json:"status,omitempty"`
	Servers []proxy.ServerStatus `json:"servers,omitempty"`
}

func (i instance) ok() bool { return i.Error == "" && i.Status.Status != proxy.Unhealthy }

func (o statusOptions) run(cmd *cobra.Command, urls []string) error {
	client, err := o.client()
	if err != nil {
		return err
	}
	instances := make([]instance, len(urls))
	var all sync.WaitGroup
	for i, url := range urls {
		all.Go(func() { instances[i] = client.ask(cmd.Context(), strings.TrimRight(url, "/")) })
	}
	all.Wait()
	if o.json {
		err = writeJSON(cmd.OutOrStdout(), instances)
	} else {
		err = printInstances(cmd.OutOrStdout(), instances)
	}
	for _, i := range instances {
		if err == nil && !i.ok() {
			err = errReported
		}
	}
	return err
}

// statusClient asks with the operator's credentials.
type statusClient struct {
	http      *http.Client
	authorize func(*http.Request)
}

func (o statusOptions) client() (*statusClient, error) {
	c := &statusClient{http: &http.Client{Timeout: o.timeout}, authorize: func(*http.Request) {}}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	if o.caFile != "" {
		pem, err := os.ReadFile(o.caFile)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s holds no PEM certificate", o.caFile)
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	c.http.Transport = transport
	return c, o.credentials(c)
}

func (o statusOptions) credentials(c *statusClient) error {
	name := o.passwordFile + o.tokenFile
	if name == "" {
		return nil
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read credentials: %w", err)
	}
	secret := strings.TrimRight(string(content), "\r\n")
	c.authorize = func(r *http.Request) { r.SetBasicAuth(o.user, secret) }
	if o.tokenFile != "" {
		c.authorize = func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret) }
	}
	return nil
}

func (c *statusClient) ask(ctx context.Context, url string) instance {
	i := instance{URL: url, Status: new(proxy.Status)}
	var servers struct{ Servers []proxy.ServerStatus }
	if err := c.get(ctx, url+"/dicomweb-oauth/status", i.Status); err != nil {
		return instance{URL: url, Error: err.Error()}
	}
	if err := c.get(ctx, url+"/dicomweb-oauth/servers", &servers); err != nil {
		return instance{URL: url, Error: err.Error()}
	}
	i.Servers = servers.Servers
	return i
}

// maxAnswer bounds what an instance may say.
const maxAnswer = 1 << 20

func (c *statusClient) get(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	c.authorize(req)
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK, http.StatusServiceUnavailable: // an unhealthy instance explains itself
	case http.StatusUnauthorized, http.StatusForbidden:
		return errors.New("the instance wants credentials: --user with --password-file, or --token-file")
	case http.StatusNotFound:
		return errors.New("there is no orthanc-oauth at this address")
	default:
		return fmt.Errorf("the instance answered %s", res.Status)
	}
	envelope := struct{ Data any }{into}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&envelope); err != nil {
		return fmt.Errorf("the answer is not the status of an orthanc-oauth: %w", err)
	}
	return nil
}

func printInstances(w io.Writer, instances []instance) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "INSTANCE\tSTATUS\tBACKEND\tMEMBERS\tSERVER\tTOKEN\tSOURCE")
	var notes []string
	for _, i := range instances {
		if i.Error != "" {
			fmt.Fprintf(t, "%s\tno answer\t\t\t\t\t\n", i.URL)
			notes = append(notes, i.URL+": "+i.Error)
			continue
		}
		for _, reason := range i.Status.Reasons {
			notes = append(notes, i.URL+": "+reason)
		}
		head := fmt.Sprintf("%s\t%s\t%s\t%d", i.URL, i.Status.Status, i.Status.Backend.Name, i.Status.Members)
		for _, s := range i.Servers {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", head, s.Name, tokenState(s), s.Source)
			head = "\t\t\t"
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, note := range notes {
		fmt.Fprintln(w, note)
	}
	return nil
}

func tokenState(s proxy.ServerStatus) string {
	switch {
	case s.TokenValid:
		return "valid for " + (time.Duration(s.ExpiresIn) * time.Second).String()
	case s.LastErrorCode != "":
		return "none: " + s.LastErrorCode
	}
	return "not asked for yet"
}
