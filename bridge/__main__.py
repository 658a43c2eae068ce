"""``python -m bridge``: the same as the command ``bridge``, in whichever environment runs it."""

if __name__ == "__main__":
    from bridge.jobs.warm import hand_over

    hand_over()

    from bridge.jobs.cli import main

    main()
