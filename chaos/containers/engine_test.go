//go:build chaos

package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// engine is Docker and docker-compose, as the machine has them, and one project.
type engine struct {
	docker  string
	compose []string
	project string
	env     []string
}

// composeFile is where the topology stands, from this package's folder.
const composeFile = "../docker-compose.yml"

// commandPatience bounds one command: a restart of everything on a busy machine.
const commandPatience = 3 * time.Minute

// newEngine looks for an engine that answers and for a compose of either
// generation.
func newEngine(ctx context.Context, project string, env []string) (*engine, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("iptables in the namespaces of containers needs root")
	}
	if _, err := exec.LookPath("iptables-restore"); err != nil {
		return nil, fmt.Errorf("install iptables: %w", err)
	}
	e := &engine{project: project, env: append(os.Environ(), env...)}
	for _, docker := range []string{"docker", "/usr/bin/docker"} { // the second where something shadows Debian's
		if _, err := run(ctx, e.env, docker, "version", "--format", "{{.Server.Version}}"); err == nil {
			e.docker = docker
			break
		}
	}
	if e.docker == "" {
		return nil, errors.New("no container engine answers: start dockerd, or use scripts/with-docker")
	}
	for _, compose := range [][]string{{e.docker, "compose"}, {"docker-compose"}} {
		if _, err := run(ctx, e.env, compose[0], append(compose[1:], "version")...); err == nil {
			e.compose = compose
			return e, nil
		}
	}
	return nil, errors.New("no docker-compose: install Debian's docker-compose, or the compose plugin")
}

// with returns the engine with more in its environment.
func (e *engine) with(env ...string) *engine {
	more := *e
	more.env = append(slices.Clip(e.env), env...)
	return &more
}

// composed runs a compose command on the project.
func (e *engine) composed(ctx context.Context, args ...string) (string, error) {
	all := append(append([]string{}, e.compose[1:]...), "-p", e.project, "-f", composeFile)
	return run(ctx, e.env, e.compose[0], append(all, args...)...)
}

// do runs a docker command.
func (e *engine) do(ctx context.Context, args ...string) (string, error) {
	return run(ctx, e.env, e.docker, args...)
}

// container returns the id of a service's container, running or not.
func (e *engine) container(ctx context.Context, service string) (string, error) {
	out, err := e.do(ctx, "ps", "-aq", "--no-trunc", "--filter", "label=com.docker.compose.project="+e.project,
		"--filter", "label=com.docker.compose.service="+service)
	if err == nil && len(strings.Fields(out)) != 1 {
		err = fmt.Errorf("%s has %d containers, want one", service, len(strings.Fields(out)))
	}
	return out, err
}

// all returns the ids of all containers of the project.
func (e *engine) all(ctx context.Context) ([]string, error) {
	out, err := e.do(ctx, "ps", "-aq", "--filter", "label=com.docker.compose.project="+e.project)
	return strings.Fields(out), err
}

// down removes everything that the project has made, and says what is left.
func (e *engine) down(ctx context.Context) error {
	_, err := e.composed(ctx, "--profile", "stranger", "--profile", "sidecar", "down", "-v", "-t", "3", "--remove-orphans")
	for _, what := range [][]string{{"ps", "-aq"}, {"network", "ls", "-q"}, {"volume", "ls", "-q"}} {
		left, bad := e.do(ctx, append(what, "--filter", "label=com.docker.compose.project="+e.project)...)
		if left != "" {
			bad = errors.Join(bad, fmt.Errorf("left behind by docker %s: %s", what[0], left))
		}
		err = errors.Join(err, bad)
	}
	return err
}

// filter replaces the packet filter of a process's network namespace.
func (e *engine) filter(ctx context.Context, pid string, rules []string) error {
	text := "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
	for _, r := range rules {
		text += r + "\n"
	}
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "--net="+filepath.Join("/proc", pid, "ns/net"), "--", "iptables-restore", "-w")
	cmd.Stdin = strings.NewReader(text + "COMMIT\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("packet filter of process %s: %w: %s", pid, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// run runs a command, behind the fleet in the queue for a processor: compose
// takes a second of one.
func run(ctx context.Context, env []string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "10", name}, args...)...)
	cmd.Env = env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %.600s", name, strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

// logs returns what a container has written: to both of its outputs, and
// everything unless args say less.
func (e *engine) logs(ctx context.Context, id string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	out, err := exec.CommandContext(ctx, e.docker, append(append([]string{"logs"}, args...), id)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("docker logs %s: %w", id, err)
	}
	return out, err
}
