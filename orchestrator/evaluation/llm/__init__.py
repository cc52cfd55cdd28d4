"""Measure language models on the puzzles that trained models are scored on, over OpenAI's chat protocol.

    questions.py   puzzles as prompts, and strict parsing of replies
    endpoint.py    one question over HTTP: a reply, a reason to try again, or an error that ends the run
    ledger.py      dollars spent and reserved, and their limit
    answers.py     stored replies, so that nothing is paid for twice
    measure.py     all questions of a measurement, in parallel
    score.py       scores, by the rules for trained models; `orchestrator.results.llm_results` has the stored form

Invariant: a request that may cost money is recorded on disk before it is sent, and counts at its upper bound until its
reply is stored.
"""
