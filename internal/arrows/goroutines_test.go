package arrows

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"testing"
)

// inHost are the packages that run inside Orthanc, where a panic in any
// goroutine ends the imaging server.
var inHost = []string{
	"./plugin/...", "./internal/node/...", "./internal/proxy/...", "./internal/config/...",
	"./tokens/...", "./backend", "./backend/gossip/...", "./backend/redis", "./cluster",
}

// harmless are calls that end a wait or are one, and cannot panic by mistake of
// ours.
var harmless = []string{"close", "Close", "NetConn", "Wait", "wait", "cancel"}

// unguarded returns where the files of one package start a goroutine that does
// not recover: by go, by a Go method, or by AfterFunc.
func unguarded(files []*ast.File) (found []token.Pos) {
	g := guards{}
	g.learn(files, isRecover)
	g.learn(files, func(call *ast.CallExpr) bool { return g.helpers[callee(call.Fun)] })
	for _, f := range files {
		for node := range ast.Preorder(f) {
			for _, body := range started(node) {
				if !g.guarded(body) {
					found = append(found, node.Pos())
				}
			}
		}
	}
	return found
}

// started returns what a node runs in a goroutine of its own.
func started(node ast.Node) []ast.Expr {
	switch n := node.(type) {
	case *ast.GoStmt:
		return []ast.Expr{n.Call.Fun}
	case *ast.CallExpr:
		if _, method := n.Fun.(*ast.SelectorExpr); !method || len(n.Args) == 0 {
			return nil
		}
		last := n.Args[len(n.Args)-1:]
		switch callee(n.Fun) {
		case "Go":
			return last
		case "AfterFunc":
			// A callback passed by name is mostly a cancel handed in, and cannot
			// be judged from here.
			if _, literal := last[0].(*ast.FuncLit); literal {
				return last
			}
		}
	}
	return nil
}

// guards is what is known of a package's functions, by name alone: without types
// two methods of one name are taken for one, which only makes this less strict.
type guards struct {
	helpers map[string]bool // call recover, and are deferred
	safe    map[string]bool // recover what happens in them
}

// learn notes the functions that defer what recovers accepts as safe, and those
// that call recover themselves as helpers.
func (g *guards) learn(files []*ast.File, recovers func(*ast.CallExpr) bool) {
	if g.helpers == nil {
		g.helpers, g.safe = make(map[string]bool), make(map[string]bool)
	}
	for _, f := range files {
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if callsDirectly(fn.Body, isRecover) {
				g.helpers[fn.Name.Name] = true
			}
			if defers(fn.Body, recovers) {
				g.safe[fn.Name.Name] = true
			}
		}
	}
}

func isRecover(call *ast.CallExpr) bool { return callee(call.Fun) == "recover" }

// guarded reports whether what runs in a goroutine recovers.
func (g *guards) guarded(body ast.Expr) bool {
	lit, ok := body.(*ast.FuncLit)
	if !ok {
		return g.passes(callee(body))
	}
	recovers := func(call *ast.CallExpr) bool { return isRecover(call) || g.helpers[callee(call.Fun)] }
	return defers(lit.Body, recovers) || g.onlySafeCalls(lit.Body)
}

func (g *guards) passes(name string) bool {
	return g.safe[name] || slices.Contains(harmless, name)
}

func (g *guards) onlySafeCalls(body *ast.BlockStmt) bool {
	for node := range ast.Preorder(body) {
		if call, ok := node.(*ast.CallExpr); ok && !g.passes(callee(call.Fun)) {
			return false
		}
	}
	return true
}

// defers reports whether a body defers a recovery: a helper, or a literal that
// calls recover.
func defers(body *ast.BlockStmt, recovers func(*ast.CallExpr) bool) bool {
	for _, stmt := range body.List {
		d, ok := stmt.(*ast.DeferStmt)
		if !ok {
			continue
		}
		if lit, isLit := d.Call.Fun.(*ast.FuncLit); isLit && callsDirectly(lit.Body, isRecover) || !isLit && recovers(d.Call) {
			return true
		}
	}
	return false
}

// callsDirectly reports whether a body, literals inside it left out, makes a
// call that match accepts.
func callsDirectly(body *ast.BlockStmt, match func(*ast.CallExpr) bool) bool {
	found := false
	ast.Inspect(body, func(node ast.Node) bool {
		if call, ok := node.(*ast.CallExpr); ok && match(call) {
			found = true
		}
		_, inner := node.(*ast.FuncLit)
		return !inner
	})
	return found
}

// callee is the last name of what is called.
func callee(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func TestGoroutines_InsideOrthancEachRecovers(t *testing.T) {
	files := token.NewFileSet()
	packages := make(map[string][]*ast.File)
	for _, s := range parse(t, files) {
		if matchesAny(inHost, s.pkg) {
			packages[s.pkg] = append(packages[s.pkg], s.file)
		}
	}
	for _, pkg := range packages {
		for _, pos := range unguarded(pkg) {
			t.Errorf("%s: a panic in this goroutine ends Orthanc", files.Position(pos))
		}
	}
}

func TestUnguarded_TellsGoroutinesThatRecoverFromThoseThatDoNot(t *testing.T) {
	const head = `package p
		func helper() { if v := recover(); v != nil { println(v) } }
		func safe() { defer helper(); work() }
		func work() {}
		func f() { `
	cases := []struct {
		why, body string
		want      int
	}{
		{"a bare call", `go work()`, 1},
		{"a literal that works", `go func() { work() }()`, 1},
		{"a group", `wg.Go(func() { work() })`, 1},
		{"a timer", `time.AfterFunc(d, func() { work() })`, 1},
		{"recover outside a defer", `go func() { recover(); work() }()`, 1},
		{"recover in a goroutine within", `go func() { go func() { defer helper() }(); work() }()`, 1},
		{"recover in a literal", `go func() { defer func() { if v := recover(); v != nil { work() } }(); work() }()`, 0},
		{"a helper", `wg.Go(func() { defer x.helper(); work() })`, 0},
		{"a function that recovers", `go safe()`, 0},
		{"a literal around one", `wg.Go(func() { x.safe() })`, 0},
		{"a wait", `go func() { defer close(done); wg.Wait() }()`, 0},
		{"a timer with a callback from elsewhere", `time.AfterFunc(d, bite)`, 0},
		{"a cancellation", `context.AfterFunc(ctx, func() { cancel(why) })`, 0},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			file, err := parser.ParseFile(token.NewFileSet(), "planted.go", head+c.body+" }", parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			if got := unguarded([]*ast.File{file}); len(got) != c.want {
				t.Errorf("found %d, want %d", len(got), c.want)
			}
		})
	}
}
