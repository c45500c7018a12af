package arrows

import (
	"slices"
	"strings"
	"testing"
)

// arrow forbids imports, direct and through others.
type arrow struct {
	why    string
	from   []string // packages held to it
	except []string // of those, who are not
	never  []string // what they may not come to import
	but    []string // of that, what is allowed
	direct bool     // only what they import themselves

	// planted is a way that breaks the rule, package by package.
	planted []string
}

// Third-party trees that only one package may bring in.
const (
	goRedis    = "github.com/redis/go-redis/v9/..."
	memberlist = "github.com/hashicorp/memberlist/..."
	cobra      = "github.com/spf13/cobra/..."
)

// mains are the programs. Nothing imports them; they compose by internal/node.
var mains = []string{"./plugin/...", "./cmd/...", "./chaos/..."}

var arrows = []arrow{
	{
		why:     "backend is the bottom: it imports nothing of ours",
		from:    []string{"./backend"},
		never:   []string{"./..."},
		planted: []string{"./backend", "./cluster"},
	},
	{
		why:     "embedding backend pulls in no backend's library",
		from:    []string{"./backend", "./backend/backendtest"},
		never:   []string{goRedis, memberlist, "./cluster/..."},
		planted: []string{"./backend", "example.org/cache", "github.com/redis/go-redis/v9"},
	},
	{
		why:     "embedding backend/redis does not pull in the gossip library",
		from:    []string{"./backend/redis/..."},
		never:   []string{memberlist, "./cluster/...", "./backend/gossip/..."},
		planted: []string{"./backend/redis", "./backend/gossip"},
	},
	{
		why:     "embedding backend/gossip does not pull in the Redis library",
		from:    []string{"./backend/gossip/...", "./cluster/..."},
		never:   []string{goRedis, "./backend/redis/..."},
		planted: []string{"./backend/gossip", "./cluster", "github.com/redis/go-redis/v9/internal/pool"},
	},
	{
		why:     "a backend never sees a token, nor how one is obtained",
		from:    []string{"./backend/..."},
		never:   []string{"./tokens/...", "golang.org/x/oauth2/..."},
		planted: []string{"./backend/redis", "./tokens/provider"},
	},
	{
		why:     "cluster knows names and bytes, and nothing of ours outside itself",
		from:    []string{"./cluster/..."},
		never:   []string{"./..."},
		but:     []string{"./cluster/..."},
		planted: []string{"./cluster", "./cluster/ring", "./backend"},
	},
	{
		why:     "tokens does not know which backend it has",
		from:    []string{"./tokens/..."},
		never:   []string{"./cluster/...", "./backend/...", goRedis, memberlist},
		but:     []string{"./backend"},
		planted: []string{"./tokens", "./backend/redis"},
	},
	{
		why:     "tokens/provider is a leaf",
		from:    []string{"./tokens/provider/..."},
		never:   []string{"./..."},
		but:     []string{"./tokens/provider/..."},
		planted: []string{"./tokens/provider", "./tokens"},
	},
	{
		why:     "what others may embed does not reach into internal",
		from:    []string{"./backend/...", "./cluster/...", "./tokens/..."},
		never:   []string{"./internal/..."},
		planted: []string{"./tokens", "./internal/config"},
	},
	{
		why:     "configuration and the scripted IdP are leaves",
		from:    []string{"./internal/config/...", "./internal/idptest/..."},
		never:   []string{"./..."},
		but:     []string{"./internal/config/...", "./internal/idptest/..."},
		planted: []string{"./internal/config", "./tokens"},
	},
	{
		why:     "the proxy knows where tokens come from only by an interface",
		from:    []string{"./internal/proxy/..."},
		never:   []string{"./backend/...", "./cluster/...", "./internal/node/...", goRedis, memberlist},
		but:     []string{"./tokens/...", "./backend"},
		planted: []string{"./internal/proxy", "./backend/gossip"},
	},
	{
		why:     "only internal/node knows all backends",
		from:    []string{"./..."},
		except:  []string{"./internal/node/...", "./backend/redis/...", "./backend/gossip/..."},
		never:   []string{"./backend/redis/...", "./backend/gossip/..."},
		direct:  true,
		planted: []string{"./cmd/orthanc-oauth", "./backend/redis"},
	},
	{
		why:     "only what runs the assembly imports it",
		from:    []string{"./..."},
		except:  slices.Concat(mains, []string{"./internal/node/...", "./internal/fleet/...", "./internal/demo/..."}),
		never:   []string{"./internal/node/..."},
		direct:  true,
		planted: []string{"./tokens", "./internal/node"},
	},
	{
		why:     "nothing imports a program",
		from:    []string{"./..."},
		except:  mains, // their own sub-packages
		never:   mains,
		planted: []string{"./internal/node", "./cmd/orthanc-oauth/flags"},
	},
	{
		why:     "the network in memory and the conformance suite are for tests",
		from:    []string{"./..."},
		except:  []string{"./cluster/memnet/...", "./backend/backendtest/..."},
		never:   []string{"./cluster/memnet/...", "./backend/backendtest/..."},
		planted: []string{"./internal/node", "./cluster", "./cluster/memnet"},
	},
	{
		why:     "no program carries the testing package",
		from:    slices.Concat(mains, []string{"./internal/node/..."}),
		except:  []string{"./chaos/..."},
		never:   []string{"testing", "testing/..."},
		planted: []string{"./cmd/orthanc-oauth", "./internal/demo", "testing"},
	},
	{
		why:     "the plugin carries neither the demo nor the command line",
		from:    []string{"./plugin/...", "./internal/node/..."},
		never:   []string{"./internal/demo/...", "./internal/fleet/...", "./internal/idptest/...", cobra},
		planted: []string{"./plugin", "./internal/node", "./internal/idptest"},
	},
	{
		why:     "the command line is cmd's",
		from:    []string{"./..."},
		except:  []string{"./cmd/...", "./internal/demo/..."},
		never:   []string{cobra},
		direct:  true,
		planted: []string{"./internal/fleet", "github.com/spf13/cobra"},
	},
	{
		why:     "only the plugin needs cgo",
		from:    []string{"./..."},
		except:  []string{"./plugin/..."},
		never:   []string{"C"},
		direct:  true,
		planted: []string{"./cluster", "C"},
	},
}

// anyDepth is more steps than a chain of imports can have.
const anyDepth = 1 << 20

// breaches returns every way in g by which a package breaks the rule.
func (a arrow) breaches(g graph) []string {
	bad := func(path string) bool { return matchesAny(a.never, path) && !matchesAny(a.but, path) }
	steps := anyDepth
	if a.direct {
		steps = 1
	}
	var out []string
	for _, from := range g.ours(a.from) {
		if matchesAny(a.except, from) {
			continue
		}
		if way := g.chain(from, bad, steps); way != nil {
			out = append(out, strings.Join(way, " -> "))
		}
	}
	return out
}

func TestArrows_ImportsRunOneWay(t *testing.T) {
	g := load(t)
	for _, a := range arrows {
		t.Run(a.why, func(t *testing.T) {
			if len(g.ours(a.from)) == 0 {
				t.Logf("no package matches %v yet", a.from)
			}
			for _, way := range a.breaches(g) {
				t.Error(way)
			}
		})
	}
}

func TestArrows_EveryRuleCatchesAPlantedImport(t *testing.T) {
	for _, a := range arrows {
		t.Run(a.why, func(t *testing.T) {
			g := make(graph)
			var way []string
			for i, path := range a.planted {
				way = append(way, fullPath(path))
				if i > 0 {
					g.arrow(way[i-1], way[i])
				}
			}
			if want := strings.Join(way, " -> "); !slices.Contains(a.breaches(g), want) {
				t.Errorf("not caught: %s", want)
			}
		})
	}
}

func TestChain_NamesTheShortestWay(t *testing.T) {
	g := make(graph)
	for _, arrow := range [][2]string{{"a", "b"}, {"b", "c"}, {"c", "bad"}, {"a", "d"}, {"d", "bad"}, {"b", "a"}} {
		g.arrow(arrow[0], arrow[1])
	}
	bad := func(path string) bool { return path == "bad" }
	if got, want := g.chain("a", bad, anyDepth), []string{"a", "d", "bad"}; !slices.Equal(got, want) {
		t.Errorf("chain = %v, want %v", got, want)
	}
	if got := g.chain("a", bad, 1); got != nil {
		t.Errorf("chain of one step = %v, want none", got)
	}
}
