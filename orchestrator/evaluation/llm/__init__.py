"""Language models measured on the same puzzles as everything else: any endpoint that speaks OpenAI's protocol.

    questions.py   puzzles as text, and replies as cells again, read strictly
    endpoint.py    one question over HTTP: a reply, a reason to try again, or an error that ends the run
    ledger.py      dollars: what is spent, what is under way, and the limit that is never passed
    answers.py     every reply on disk, so that nothing is paid for twice
    measure.py     all questions of a measurement, several at a time
    score.py       the scores, by the rules for models trained here
    results.py     what a measurement is and what it found, as the leaderboard reads it

Invariant: what may cost money is announced on disk before it is sent and stays counted, at the most that it can cost,
until its reply is stored.
"""
