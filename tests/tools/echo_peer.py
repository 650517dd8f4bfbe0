"""A peer that counts its calls, with the loop of the real ones and without PyTorch."""

import numpy as np
from peer_child import request, serve


def main() -> None:
    asked = request()
    if asked["fails"]:
        raise SystemExit(3)
    calls = 0

    def make():
        print("what a library prints is no reply")
        weight = np.load(asked["weights"])["weight"]

        def run():
            nonlocal calls
            calls += 1
            return {"calls": calls, "loss": weight.sum() * asked["factor"]}

        return run

    serve(make, {"torch": "none"})


if __name__ == "__main__":
    main()
