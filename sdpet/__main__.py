"""`python -m sdpet` is the command `sdpet`."""

from sdpet.commands.cli import main

if __name__ == "__main__":
    main()
