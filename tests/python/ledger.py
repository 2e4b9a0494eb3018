"""What the application of `murder` says of its requests, held against what the clients received."""

import collections

# The ends of requests whose workers have died.
LOST = (502, 504, "cut")


class Ledger:
    """What the application has done."""

    def __init__(self, path):
        self.begun = collections.defaultdict(list)
        self.ended = collections.Counter()
        self.closed = collections.Counter()
        # Workers that have ended by a fault of their own, those among them that could not send
        # responses any more, and children that workers have left.
        self.fatal = set()
        self.misused = set()
        self.left = set()
        for line in path.read_text().splitlines():
            word, name, pid = line.split(" ")
            if word == "begin":
                self.begun[name].append(int(pid))
            elif word == "end":
                self.ended[name] += 1
            elif word == "close":
                self.closed[name] += 1
            elif word in ("fatal", "misuse"):
                self.fatal.add(int(pid))
                if word == "misuse":
                    self.misused.add(int(pid))
            else:
                self.left.add(int(pid))


def judge(outcomes, ledger, dead):
    """Count the requests by their ends. Faults are those that did not end as they must."""
    counted, faults = collections.Counter(), []
    for name, outcome in sorted(outcomes.items()):
        begun = ledger.begun.get(name, [])
        # A last part that was sent would have been delivered.
        is_sent = ledger.closed[name] and not ledger.misused.issuperset(begun)
        if len(begun) > 1:
            faults.append(f"{name} was begun by {begun}")
        elif outcome == "left":
            counted["left"] += 1
        elif outcome == 200 and begun and ledger.ended[name] == 1:
            counted["whole"] += 1
        elif outcome in LOST and begun and begun[0] in dead and not is_sent:
            counted["lost"] += 1
        elif outcome in (502, 504) and not begun:
            counted["presumed"] += 1
        elif outcome == 503 and not begun:
            counted["refused"] += 1
        else:
            closed = ledger.closed[name]
            what = f"begun by {begun}, ended {ledger.ended[name]} times, closed {closed} times"
            faults.append(f"{name} got {outcome}: {what}")
    unknown = [name for name in ledger.begun if name not in outcomes]
    faults += [f"{name} was begun, and no client knows of it" for name in unknown]
    return counted, faults
