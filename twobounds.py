"""`python -m twobounds` has the same commands as the console command `twobounds`."""

from scripts.__main__ import main

if __name__ == "__main__":
    main()
