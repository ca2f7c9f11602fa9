"""What a release is made of, and whether it works where nothing else is: python -m tests.release"""
