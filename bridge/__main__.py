"""``python -m bridge``: the same as the command ``bridge``, in whichever environment runs it."""

from bridge.jobs.cli import main

if __name__ == "__main__":
    main()
