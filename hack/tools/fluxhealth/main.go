// Fluxhealth says what Flux makes of an object, by Flux's own code. Stdin is JSON: `check`, an entry of a Kustomization's
// healthCheckExprs, and `object`. It prints Current, InProgress or Failed.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func main() {
	log.SetFlags(0)
	var input struct {
		Check  kustomize.CustomHealthCheck `json:"check"`
		Object map[string]any              `json:"object"`
	}
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&input); err != nil {
		log.Fatal(err)
	}
	evaluator, err := cel.NewStatusEvaluator(&input.Check.HealthCheckExpressions)
	if err != nil {
		log.Fatal(err)
	}
	result, err := evaluator.Evaluate(context.Background(), &unstructured.Unstructured{Object: input.Object})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Status)
}
