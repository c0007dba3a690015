"""`python -m twobounds`: all commands, as the console command `twobounds` has them."""

from scripts.__main__ import main

if __name__ == "__main__":
    main()
